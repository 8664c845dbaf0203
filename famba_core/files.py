"""Files that are written whole or not at all, and the user's cache folder."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path


def write_atomically(path: Path, data: bytes | memoryview, *, replace: bool = True) -> None:
    """Write a file so that readers see all of it or nothing, even if this process or the machine dies.

    The data are synced to the disk before the file gets its name.

    Raises FileExistsError if `replace` is False and the file exists, and other OSErrors as they come; an existing
    file is unchanged then.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # a process id repeats across hosts
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            _link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Sync a folder to the disk, so that the names in it survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """Return the project's folder in the user's cache ($XDG_CACHE_HOME or ~/.cache). It may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "famba-sweep"


def _link(temporary: Path, path: Path) -> None:
    """Give a file a second name. Unlike renaming, this fails if the name is taken."""
    try:
        os.link(temporary, path)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
        raise OSError(errno.ENOTSUP, "the file system has no hard links") from error
