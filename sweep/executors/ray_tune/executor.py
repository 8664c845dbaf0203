"""The executor that runs jobs through Ray Tune, on the cores and GPUs of this machine or of a cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from sweep.errors import UserError, as_user_error
from sweep.executors.base import Event, Job, ResourceRequest, RunJob
from sweep.executors.ray_tune.messages import (
    Close,
    ClusterCapacity,
    Failure,
    Note,
    Start,
    Stop,
    Submit,
    ToDriver,
    ToRay,
)
from sweep.executors.ray_tune.node_check import FolderProbe
from sweep.executors.ray_tune.scratch import Scratch
from sweep.files.code import code_hash

CLOSE_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
START_TIMEOUT_S = 180.0
HEAD_TIMEOUT_S = 120.0  # a cluster's head that restarts is back sooner


class RayExecutor:
    """Runs each job as a Ray Tune trial, in a process of its own.

    Ray Tune decides where and when, and notices when a worker dies. Ray has a process of its own (see `process`) in a
    session of its own: its crash does not end this process, and signals from the terminal do not reach it.

    Starts Ray on this machine, or joins the cluster at `address`, whose nodes must see the study's folder under the
    same path. Each node is checked before it gets a job. Raises UserError if Ray does not start, a node cannot run the
    study's jobs, or no node has what a job needs. `poll` raises it if Ray stops working, and warns of a node that joins
    later and cannot run jobs, which then gets none.

    Args:
        request: resources of the largest job.
        run: what a worker does for a job; workers must be able to import it.
        warm_up: imports what jobs need, so that their processes need not: see `fork_server`.
    """

    def __init__(
        self,
        folder: Path,
        request: ResourceRequest,
        *,
        run: RunJob,
        address: str | None = None,
        warm_up: Callable[[], None] | None = None,
    ) -> None:
        if address is not None:
            _check_reachable(address)
        self._address = address
        self._probe: FolderProbe | None = None
        self.capacity = 0  # until Ray has started
        self.gpu_memory_mib: float | None = None
        self._started = False
        try:
            self._scratch = Scratch()
        except OSError as error:
            raise self._ray_failed(f"its temporary folder cannot be created: {error}") from error
        self._pipe, far_end = multiprocessing.Pipe()
        with far_end:
            self._process = _start_process(far_end.fileno())
        try:
            if address is not None:
                with as_user_error(folder):
                    self._probe = FolderProbe.create(folder.resolve())
            start = Start(
                address=address,
                request=request,
                folder=folder.resolve(),
                probe=self._probe,
                code_hash=code_hash(),
                scratch=self._scratch.folder,
                run=run,
                warm_up=warm_up,
                head_timeout_s=HEAD_TIMEOUT_S,
            )
            self._send(start)
            self._receive(START_TIMEOUT_S)
            if not self._started:
                raise self._ray_failed(f"it has not come up within {START_TIMEOUT_S:g} s")
        except BaseException:
            self.close()
            raise

    def submit(self, job: Job) -> None:
        self._send(Submit(job))

    def stop(self, job_id: str) -> None:
        self._send(Stop(job_id))

    def poll(self, timeout_s: float) -> list[Event]:
        return self._receive(timeout_s)

    def close(self) -> None:
        if self._pipe.closed:
            return
        self._send(Close())
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # if it hangs, or died before the processes that it started
        self._process.wait()
        self._pipe.close()
        self._scratch.remove()
        if self._probe:
            self._probe.remove()

    def _receive(self, timeout_s: float) -> list[Event]:
        events: list[Event] = []
        try:
            while self._pipe.poll(0 if events else timeout_s):
                message: ToDriver = self._pipe.recv()
                match message:
                    case ClusterCapacity():
                        self.capacity, self.gpu_memory_mib = message.slots, message.gpu_memory_mib
                        self._started = True
                        break  # the runner may start more jobs at once
                    case Note(sentence):
                        warnings.warn(sentence, stacklevel=3)  # names the caller of `poll`
                    case Failure():
                        raise self._error_of(message)
                    case event:
                        events.append(event)
        except (EOFError, OSError):
            raise self._ray_failed("its process ended") from None
        return events

    def _error_of(self, failure: Failure) -> Exception:
        if failure.traceback:
            return RuntimeError(failure.traceback)
        return self._ray_failed(failure.ray_failed) if failure.ray_failed else UserError(failure.problems)

    def _ray_failed(self, reason: str) -> UserError:
        if not self._started:
            return UserError(f"Ray does not start ({self._address or 'on this machine'}): {reason}")
        return UserError(
            f"Ray stopped working ({reason}); finished trials are stored, run the same command to continue"
        )

    def _send(self, message: Start | ToRay) -> None:
        with contextlib.suppress(OSError):  # Ray's process has ended, which `poll` reports
            self._pipe.send(message)


def _start_process(pipe_fd: int) -> subprocess.Popen[bytes]:
    """Start the process that hosts Ray.

    Not through multiprocessing, which would run the user's script again in a process that shares the terminal.
    """
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
    """Raise UserError if nothing listens at the address, for which Ray would try for minutes."""
    if "://" in address:
        raise UserError(f"--address must be auto or host:port (got {address}); Ray Client addresses are not supported")
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():  # not "auto"
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(f"--address {address}: no Ray cluster answers there ({error.strerror or error})") from error
