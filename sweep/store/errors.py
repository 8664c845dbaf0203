"""Errors of the file system in a study's folder, as errors of the user."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from sweep.errors import UserError

_NOT_SUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)  # by the file system


@contextlib.contextmanager
def as_user_error(folder: Path) -> Iterator[None]:
    """Raise every OSError of the block as a UserError: the folder cannot be written.

    Causes are a read-only or full disk, missing rights, and a file system without hard links or locks.
    """
    try:
        yield
    except OSError as error:
        advice = "free space or grant rights there, or"
        if error.errno in _NOT_SUPPORTED:
            advice = "a study needs hard links and flock:"
        sentence = f"cannot be written: {error.strerror or error}; {advice} choose another folder with --out"
        raise UserError(sentence, folder) from error
