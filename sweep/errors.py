"""What a user did wrong: a clear sentence for each problem, exit code 2, no traceback."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from famba_core.errors import ConfigError, Problem

_NOT_SUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)  # by the file system


class UserError(ConfigError):
    """Input that cannot be used. Made of problems, or of one sentence about `where` (file, folder or option)."""

    separator = "\n"

    def __init__(self, problems: Iterable[Problem] | str, where: object = ""):
        super().__init__([Problem(str(where), "", problems)] if isinstance(problems, str) else problems)


@contextlib.contextmanager
def as_user_error(folder: Path) -> Iterator[None]:
    """Raise an OSError of the block as a UserError which says that a study's folder cannot be written."""
    try:
        yield
    except OSError as error:
        if blocking := find_blocking_file(folder):
            raise UserError(f"cannot be written: {blocking} is not a folder; move it away", folder) from error
        advice = "free space or grant rights there, or work elsewhere: a run with --out, report and compact on a copy"
        if error.errno in _NOT_SUPPORTED:
            advice = "a study needs hard links and flock: choose another folder with --out"
        raise UserError(f"cannot be written: {error.strerror or error}; {advice}", folder) from error


def find_blocking_file(folder: Path) -> Path | None:
    """Return what stands where `folder` or one that it is in should be and is no folder, such as a file; else None."""
    return next((place for place in (folder, *folder.parents) if os.path.lexists(place) and not place.is_dir()), None)
