"""TODO."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from sweep.errors import Problem, UserError

_LACKING = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)  # of a file system


@contextlib.contextmanager
def as_user_error(folder: Path) -> Iterator[None]:
    """Turn a folder that cannot be written (read-only, no rights, disk full, no links or locks) into a UserError."""
    try:
        yield
    except OSError as error:
        advice = "a study needs hard links and flock:" if error.errno in _LACKING else "make room or rights there, or"
        sentence = f"cannot be written: {error.strerror or error}; {advice} choose another folder with --out"
        raise UserError([Problem(str(folder), "", sentence)]) from error


def remove_temporaries(folder: Path) -> None:
    """Remove from a study's folder what killed processes were writing; none may be at it now.

    Raises OSErrors as they come.
    """
    places = ("trials", "epochs", "measurements", "compacted", "checkpoints", "checkpoints/*", "rungs/*/*", "logs")
    for place in ("", *places):
        for temporary in folder.glob(f"{place}/.*.tmp".lstrip("/")):
            temporary.unlink(missing_ok=True)


def measuring_folder(folder: Path) -> Path:
    """Where the phase says how far it is, while it lasts; an epoch is a measurement there."""
    return folder / "measurements"


def checkpoint_folder(study: Path, trial_id: str) -> Path:
    """Where a trial keeps its checkpoint while it is not stored."""
    return study / "checkpoints" / trial_id
