"""Trials through Ray Tune, on the cores and GPUs of this machine or of a cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sweep.errors import UserError
from sweep.executor import Event, Job
from sweep.ray_process import Start, no_start, stopped

CLOSE_TIMEOUT_S = 10.0
REACH_TIMEOUT_S = 5.0


class RayExecutor:
    """Runs each job as a Ray Tune trial in a fresh worker process.

    Ray Tune decides where and when, and notices when a worker dies. Ray has a process of its own (`ray_process`), in a
    session of its own: what ends it does not end this one, and signals from the terminal do not reach it.

    Starts Ray on this machine, or joins the cluster at `address`, whose machines must see the study's folder under
    the same path. Raises UserError if Ray does not start or no machine has what a job takes; `poll` raises it if Ray
    stops working.
    """

    capacity: int

    def __init__(self, folder: Path, jobs: Sequence[Job], *, address: str | None = None) -> None:
        if address is not None:
            _check_reachable(address)
        self._folder = folder.resolve()
        self._scratch = Path(tempfile.mkdtemp(prefix="famba-sweep-"))
        self._pipe, far_end = multiprocessing.Pipe()
        with far_end:
            self._process = _start_process(far_end.fileno())
        start = Start(
            address=address,
            cpus=max(job.cpus_per_trial for job in jobs),
            gpus=max(job.gpus_per_trial for job in jobs),
            scratch=self._scratch,
        )
        try:
            self._pipe.send(start)
            capacity = self._pipe.recv()
            if isinstance(capacity, Exception):
                raise capacity
        except (EOFError, OSError):
            self.close()
            raise no_start(address, "its process ended") from None
        except BaseException:
            self.close()
            raise
        self.capacity = capacity

    def submit(self, job: Job, attempt: int) -> None:
        with contextlib.suppress(OSError):  # Ray's process has ended, which `poll` says
            self._pipe.send({"job": job, "attempt": attempt, "folder": self._folder})

    def poll(self, timeout_s: float) -> list[Event]:
        events: list[Event] = []
        try:
            while self._pipe.poll(0 if events else timeout_s):
                message = self._pipe.recv()
                if isinstance(message, Exception):
                    raise message
                events.append(message)
        except (EOFError, OSError):
            raise stopped("its process ended") from None
        return events

    def close(self) -> None:
        if self._pipe.closed:
            return
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # if it hangs, or has died before all that it started
        self._process.wait()
        self._pipe.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def _start_process(pipe_fd: int) -> subprocess.Popen[bytes]:
    """Not by multiprocessing, which would run the user's script again and whose process would share the terminal."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from sweep.ray_process import main; main({pipe_fd})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        pass_fds=[pipe_fd],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _check_reachable(address: str) -> None:
    """Raise UserError where nobody listens; Ray itself would try for minutes."""
    if "://" in address:
        raise UserError(f"--address {address}: join the cluster itself, as auto or host:port; Ray clients cannot")
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():  # not "auto"
            socket.create_connection((host, int(port)), timeout=REACH_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(f"--address {address}: no Ray cluster answers there ({error.strerror or error})") from error
