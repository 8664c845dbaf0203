"""Trials through Ray Tune, on the cores and GPUs of this machine or of a cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from sweep.errors import UserError
from sweep.executors.base import Event, Job, ResourceRequest, RunJob
from sweep.executors.ray_tune.node_check import FolderProbe
from sweep.executors.ray_tune.nodes import ClusterCapacity
from sweep.executors.ray_tune.process import Start, no_start, stopped
from sweep.executors.ray_tune.scratch import Scratch
from sweep.store.errors import as_user_error

CLOSE_TIMEOUT_S = 10.0
REACH_TIMEOUT_S = 5.0
START_TIMEOUT_S = 180.0
SILENCE_S = 120.0  # a cluster's head that restarts is back before


class RayExecutor:
    """Runs each job as a Ray Tune trial in a fresh worker process.

    Ray Tune decides where and when, and notices when a worker dies. Ray has a process of its own (`ray_process`), in a
    session of its own: what ends it does not end this one, and signals from the terminal do not reach it.

    Starts Ray on this machine, or joins the cluster at `address`, whose machines must see the study's folder under
    the same path; each is asked before it gets a job. Raises UserError if Ray does not start, a machine cannot run the
    study's jobs, or none has what a job takes; `poll` raises it if Ray stops working, and warns of a machine that joins
    and cannot run them: it gets none.

    Args:
        resources: what the largest job takes.
        run: what a worker does for a job: a function that it can import.
        reuse_workers: one worker runs many jobs. It keeps what they leave in its memory, so this is for simulations.
    """

    def __init__(
        self,
        folder: Path,
        resources: ResourceRequest,
        *,
        run: RunJob,
        address: str | None = None,
        reuse_workers: bool = False,
    ) -> None:
        if address is not None:
            _check_reachable(address)
        self._folder = folder.resolve()
        self._mark: FolderProbe | None = None
        try:
            self._scratch = Scratch()
        except OSError as error:
            raise no_start(address, f"no room for its temporary files: {error}") from error
        self._pipe, far_end = multiprocessing.Pipe()
        with far_end:
            self._process = _start_process(far_end.fileno())
        try:
            if address is not None:
                with as_user_error(folder):
                    self._mark = FolderProbe.leave(self._folder)
            start = Start(
                address=address,
                need=resources,
                mark=self._mark,
                scratch=self._scratch.folder,
                run=run,
                reuse_workers=reuse_workers,
                silence_s=SILENCE_S,
            )
            self._pipe.send(start)
            if not self._pipe.poll(START_TIMEOUT_S):
                raise no_start(address, f"it has not come up within {START_TIMEOUT_S:g} s")
            room = self._pipe.recv()
            if isinstance(room, Exception):
                raise room
        except (EOFError, OSError):
            self.close()
            raise no_start(address, "its process ended") from None
        except BaseException:
            self.close()
            raise
        self._room: ClusterCapacity = room

    @property
    def capacity(self) -> int:
        return self._room.capacity

    @property
    def gpu_memory_mib(self) -> float | None:
        return self._room.gpu_memory_mib

    def submit(self, job: Job) -> None:
        self._send({"job": job, "folder": self._folder})

    def stop(self, job_id: str) -> None:
        self._send(job_id)

    def poll(self, timeout_s: float) -> list[Event]:
        events: list[Event] = []
        try:
            while self._pipe.poll(0 if events else timeout_s):
                message = self._pipe.recv()
                if isinstance(message, Exception):
                    raise message
                if isinstance(message, str):
                    warnings.warn(message, stacklevel=2)
                    continue
                if isinstance(message, ClusterCapacity):
                    self._room = message
                    break  # the runner may start more at once
                events.append(message)
        except (EOFError, OSError):
            raise stopped("its process ended") from None
        return events

    def close(self) -> None:
        if self._pipe.closed:
            return
        self._send(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # if it hangs, or has died before all that it started
        self._process.wait()
        self._pipe.close()
        self._scratch.remove()
        if self._mark:
            self._mark.remove()

    def _send(self, message: dict[str, Any] | str | None) -> None:
        with contextlib.suppress(OSError):  # Ray's process has ended, which `poll` says
            self._pipe.send(message)


def _start_process(pipe_fd: int) -> subprocess.Popen[bytes]:
    """Not by multiprocessing, which would run the user's script again and whose process would share the terminal."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from sweep.executors.ray_tune.process import main; main({pipe_fd})"
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
