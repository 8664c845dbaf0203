"""What a user did wrong: a clear sentence for each problem, exit code 2, no traceback."""

from __future__ import annotations

import contextlib
import errno
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
        lacking = error.errno in _NOT_SUPPORTED
        advice = "a study needs hard links and flock:" if lacking else "free space or grant rights there, or"
        sentence = f"cannot be written: {error.strerror or error}; {advice} choose another folder with --out"
        raise UserError(sentence, folder) from error
