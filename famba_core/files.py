"""Files that are whole or not there, whenever a process or the machine dies."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path


def write_atomically(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file so that readers see all of it or nothing, whenever this process or the machine dies.

    Raises FileExistsError if `replace` is off and the file exists, and other OSErrors as they come.
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
    """Make the names in a folder outlive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(temporary: Path, path: Path) -> None:
    """Give a file its name, which, unlike renaming, fails where the name is taken."""
    try:
        os.link(temporary, path)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
        raise OSError(errno.ENOTSUP, "there are no hard links on its file system") from error
