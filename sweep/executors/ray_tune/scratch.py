"""A run's folder for temporary files, Ray's included. It is deleted when the run ends.

If the driver is killed, Ray's process deletes it; if that is killed too, the next run does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "famba-ray-"
# The longest path at which Ray creates a socket inside the folder, and the longest that the kernel accepts.
SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
MAX_SOCKET_BYTES = 107
SHORT_PARENT = "/tmp"  # where TMPDIR is too long, as batch systems may set it


class Scratch:
    """A temporary folder under a lock, which the kernel frees with this process.

    Raises OSError if the folder cannot be created.
    """

    def __init__(self) -> None:
        parent = tempfile.gettempdir()
        if not _fits_sockets(parent):
            parent = SHORT_PARENT
        _remove_abandoned(parent)
        new = tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent)
        self._lock = os.open(new, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.folder = Path(parent, Path(new).name.removeprefix("."))
        os.rename(new, self.folder)  # under this name other runs may delete it, so it is locked first

    def remove(self) -> None:
        for _ in range(20):  # a process that was just killed may still be writing
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                break
            time.sleep(0.05)
        os.close(self._lock)


def _fits_sockets(parent: str) -> bool:
    """True if Ray's sockets in a scratch folder there have paths that are short enough."""
    path = os.path.join(parent, f"{PREFIX}12345678", SOCKET)
    return len(os.fsencode(path)) <= MAX_SOCKET_BYTES


def _remove_abandoned(parent: str) -> None:
    """Delete the folders that killed runs of this user left behind."""
    for folder in Path(parent).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid != os.getuid():
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
