"""One driver for a study at a time."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sweep.errors import Problem, UserError
from sweep.store.errors import as_user_error
from sweep.store.layout import StudyPaths
from sweep.store.study import create_study

_locked_fds: set[int] = set()  # the locks' files


def _close_in_child() -> None:
    """A forked child shares the lock, and must not keep it when this process is killed."""
    while _locked_fds:
        os.close(_locked_fds.pop())


os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def lock_study(folder: Path) -> Iterator[None]:
    """Be the only driver of a study while the block runs; the kernel frees the lock of a process that dies.

    What earlier drivers and their workers were writing when they were killed is removed.
    Raises UserError if another process drives the study, naming it, or where the folder cannot be written.
    """
    create_study(folder)
    with contextlib.ExitStack() as stack:
        with as_user_error(folder):
            file = stack.enter_context(open(StudyPaths(folder).lock, "a+", encoding="utf-8"))
            if not _try_lock(file, fcntl.LOCK_EX):
                time.sleep(0.1)  # `read_lock_holder` holds it for an instant
                if not _try_lock(file, fcntl.LOCK_EX):
                    driver = "pid {pid} on {host}, since {started_at}".format_map(_read_holder(file))
                    sentence = f"another process runs this study: {driver}; wait for it, or stop it first"
                    raise UserError([Problem(str(folder), "", sentence)])
            _locked_fds.add(file.fileno())
            _write_holder(file)
            for temporary in StudyPaths(folder).list_temporaries():
                temporary.unlink(missing_ok=True)
        try:
            yield
        finally:
            _locked_fds.discard(file.fileno())
            fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough where a child has not closed it yet


def read_lock_holder(folder: Path) -> dict[str, Any] | None:
    """Who runs the study now: pid, host, started_at (UTC, ISO 8601), token; None if nobody does.

    Nobody does on a file system that has no locks, such as that of a copy which is only looked at.
    """
    path = StudyPaths(folder).lock
    if not path.exists():
        return None
    with open(path, encoding="utf-8") as file:
        try:
            return None if _try_lock(file, fcntl.LOCK_SH) else _read_holder(file)
        except OSError:
            return None


def read_last_holder_token(folder: Path) -> str:
    """Of the driver that took the lock last, whether or not it still runs; "" if there was none.

    A worker leaves it with its progress: whose work that is must not be told from times of day, which jump.
    """
    try:
        with open(StudyPaths(folder).lock, encoding="utf-8") as file:
            return str(_read_holder(file).get("token", ""))
    except FileNotFoundError:
        return ""


def _write_holder(file: IO[str]) -> None:
    """Write into the lock who holds it. Unbuffered: closing must not try again what a full disk has refused."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "started_at": now, "token": uuid.uuid4().hex}
    os.ftruncate(file.fileno(), 0)
    os.write(file.fileno(), json.dumps(holder).encode())


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(file: IO[str]) -> dict[str, Any]:
    """What the holder of the lock wrote into it; it may have been about to, or have found a full disk."""
    file.seek(0)
    unknown = {"pid": "unknown", "host": "unknown", "started_at": "just now"}
    try:
        return unknown | json.loads(file.read())
    except (ValueError, TypeError):
        return unknown
