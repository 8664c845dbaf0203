"""A run's folder for temporary files, Ray's own among them. It goes with its run.

A run that is killed leaves it to the process that Ray lives in, and where that is killed too, to the next run.
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
# What Ray puts its sockets under, and how long the path of a socket may be.
SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
LONGEST_SOCKET_BYTES = 107
SHORT_PLACE = "/tmp"  # batch systems may set a long TMPDIR


class Scratch:
    """Holds a lock on the folder, which the kernel frees with this process. Raises OSError where there is no room."""

    def __init__(self) -> None:
        place = tempfile.gettempdir()
        if not _fits(place):
            place = SHORT_PLACE
        _remove_left(place)
        new = tempfile.mkdtemp(prefix=f".{PREFIX}", dir=place)
        self._lock = os.open(new, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.folder = Path(place, Path(new).name.removeprefix("."))
        os.rename(new, self.folder)  # only now would another run look at it

    def remove(self) -> None:
        for _ in range(20):  # what has just been killed may be writing still
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                break
            time.sleep(0.05)
        os.close(self._lock)


def _fits(place: str) -> bool:
    path = os.path.join(place, f"{PREFIX}12345678", SOCKET)
    return len(os.fsencode(path)) <= LONGEST_SOCKET_BYTES


def _remove_left(place: str) -> None:
    """Remove the folders that killed runs of this user have left."""
    for folder in Path(place).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid != os.getuid():
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
