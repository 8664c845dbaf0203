"""The lock of a study: one driver at a time."""

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

from sweep.errors import UserError, as_user_error
from sweep.store.layout import StudyPaths
from sweep.store.study import create_study

_locked_fds: set[int] = set()


def _close_in_child() -> None:
    """Close a forked child's copies of the lock files, which would keep the locks after this process is killed."""
    while _locked_fds:
        os.close(_locked_fds.pop())


os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def lock_study(folder: Path) -> Iterator[None]:
    """Hold the lock of a study during the block; the kernel releases it if the process dies.

    Temporary files that killed processes have left are removed.
    Raises UserError if another process holds the lock, naming it, or if the folder cannot be written.
    """
    create_study(folder)
    with contextlib.ExitStack() as stack:
        with as_user_error(folder):
            file = stack.enter_context(open(StudyPaths(folder).lock, "a+", encoding="utf-8"))
            if not _try_lock(file, fcntl.LOCK_EX):
                time.sleep(0.1)  # `read_lock_holder` holds it for an instant
                if not _try_lock(file, fcntl.LOCK_EX):
                    holder = "pid {pid} on {host}, since {started_at}".format_map(_read_holder(file))
                    sentence = f"another process runs this study: {holder}; wait until it ends, or stop it first"
                    raise UserError(sentence, folder)
            _locked_fds.add(file.fileno())
            _write_holder(file)
            for temporary in StudyPaths(folder).list_temporaries():
                temporary.unlink(missing_ok=True)
        try:
            yield
        finally:
            _locked_fds.discard(file.fileno())
            fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough if a child has not closed its copy yet


def read_lock_holder(folder: Path) -> dict[str, Any] | None:
    """Return pid, host, started_at (UTC, ISO 8601) and token of the process that runs the study; None if none does.

    Also None on a file system without locks, such as one that holds a copy of the study to look at.
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
    """Return the token of the process that took the lock last, even if it has ended; "" if there was none.

    A worker stores it with its progress, which shows whose work that is without comparing times of day, which jump.
    """
    try:
        with open(StudyPaths(folder).lock, encoding="utf-8") as file:
            return str(_read_holder(file).get("token", ""))
    except FileNotFoundError:
        return ""


def _write_holder(file: IO[str]) -> None:
    """Write into the lock file who holds it. Unbuffered: closing must not repeat a write that a full disk refused."""
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
    """Read who holds the lock. The holder may not have written it yet, or may have found a full disk."""
    file.seek(0)
    holder = {"pid": "unknown", "host": "unknown", "started_at": "just now"}
    with contextlib.suppress(ValueError, TypeError):
        holder |= json.loads(file.read())
    return holder
