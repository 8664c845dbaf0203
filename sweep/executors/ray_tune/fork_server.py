"""A process that has imported what jobs need, and forks a child for each job.

So a job starts at once, and its end leaves nothing for the next one. The server runs no Python or OpenMP threads and
never touches a GPU, because neither survives a fork. It ends with the process that started it, and so do its children.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from sweep.executors.base import Job, Lost, RunJob
from sweep.files.code import code_hash

CAN_FORK = sys.platform == "linux"  # elsewhere system libraries may break in a forked process
_PR_SET_PDEATHSIG = 1
_EXITED = None  # what the server sends when a child has gone
Report = dict[
    str, Any
]  # "metrics": a step of the job, or "end": its Finished or Lost, and "problem" if its node has one


@dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """What a worker does for one job."""

    run: RunJob
    job: Job
    folder: Path  # the study's
    find_problem: Callable[[], str | None]  # why this machine must not run jobs

    def reports(self) -> Iterator[Report]:
        """Run the job in this process; yield its steps and its end."""
        if problem := self.find_problem():  # the node, or the code on it, has changed since the run began
            lost = Lost(job_id=self.job.job_id, reason="its machine failed a check", node_left=True)
            yield {"end": lost, "problem": problem}
            return
        steps = self.run(self.job, self.folder)
        while True:
            try:
                yield {"metrics": next(steps)}
            except StopIteration as end:
                yield {"end": end.value}
                return


@dataclass(frozen=True, kw_only=True)
class _Request:
    """A task for a child, with the environment of the process that asks for it."""

    task: WorkerTask
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True)
class ForkServer:
    """A server as its clients see it."""

    connection: Connection
    process: subprocess.Popen[bytes] | None = None  # if this process started it; then it ends with this process

    @classmethod
    def start(cls, warm_up: Callable[[], None] | None, address: Path | None = None) -> ForkServer:
        """Start a server.

        Args:
            warm_up: imports what jobs need. It must not start threads or touch a GPU.
            address: a socket at which other processes of this machine may connect to the server.
        """
        connection, far_end = multiprocessing.Pipe()
        listener = None if address is None else _listen(address)
        with far_end, listener or contextlib.nullcontext():
            descriptors = [far_end.fileno(), *([listener.fileno()] if listener else [])]
            code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve(*{descriptors})"
            process = subprocess.Popen([sys.executable, "-c", code], pass_fds=descriptors, stdin=subprocess.DEVNULL)
        connection.send(warm_up)
        return cls(connection, process)

    @classmethod
    def connect(cls, address: Path) -> ForkServer:
        """Connect to a server that another process started. Raises OSError if there is none."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(address))
            return cls(Connection(client.detach()))


def run_forked(task: WorkerTask, warm_up: Callable[[], None] | None, address: Path) -> Iterator[Report]:
    """Run the job in a child of the server at `address`, or of one of this process's own; yield its steps and its end.

    The end comes after the child has gone, and with it its memory.
    """
    last: Report = {"end": Lost(job_id=task.job.job_id, reason="its worker process died")}
    try:
        connection = _find_server(warm_up, address).connection
        connection.send(_Request(task=task))
        while (report := connection.recv()) is not _EXITED:
            if "end" in report:
                last = report
            else:
                yield report
    except (EOFError, OSError):  # the server died, and its child with it
        _find_server.cache_clear()
    yield last


@functools.cache
def _find_server(warm_up: Callable[[], None] | None, address: Path) -> ForkServer:
    try:
        return ForkServer.connect(address)
    except OSError:  # a cluster's node has none
        return ForkServer.start(warm_up)


def server_address(scratch: Path) -> Path:
    """Return the socket of the server that a run on this machine alone has."""
    return scratch / "fork-server"


def _listen(address: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen()
    return listener


def serve(owner_fd: int, *listener_fds: int) -> NoReturn:
    """Import what jobs need, then fork a child for each request, until the server's owner has gone."""
    owner = Connection(owner_fd)
    listeners = [socket.socket(fileno=descriptor) for descriptor in listener_fds]
    for descriptor in (owner_fd, *listener_fds):
        os.set_inheritable(descriptor, False)
    if warm_up := owner.recv():
        warm_up()
    code_hash()  # read once, now: children run the code that was imported, whatever becomes of its files
    gc.collect()
    gc.freeze()  # a collection in a child would copy all of this memory
    clients = {owner}
    children: dict[int, tuple[int, Connection]] = {}  # end of a pipe that closes with the child -> its id, its client
    while True:
        for ready in wait([*listeners, *clients, *children]):
            if isinstance(ready, socket.socket):
                clients.add(Connection(ready.accept()[0].detach()))
            elif isinstance(ready, int):
                pid, client = children.pop(ready)
                os.close(ready)
                os.waitpid(pid, 0)
                with contextlib.suppress(OSError):  # the client has gone
                    client.send(_EXITED)
            elif isinstance(ready, Connection):
                _answer(ready, clients, children)
                if owner not in clients:
                    os._exit(0)  # the kernel kills the children


def _answer(client: Connection, clients: set[Connection], children: dict[int, tuple[int, Connection]]) -> None:
    """Fork a child for a client's request. If the client has gone, kill its child."""
    try:
        request: _Request = client.recv()
    except (EOFError, OSError):
        clients.remove(client)
        for pid, its_client in children.values():
            if its_client is client:
                os.kill(pid, signal.SIGKILL)
        client.close()
        return
    pipe, held = os.pipe()
    server = os.getpid()
    if (pid := os.fork()) == 0:
        os.close(pipe)
        _run_child(request, client, server)
    os.close(held)  # now the child alone holds it
    children[pipe] = pid, client


def _run_child(request: _Request, client: Connection, server: int) -> NoReturn:
    """Send the reports of a job, in the child, which ends without running anything that the server has prepared."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # when the server ends
    if os.getppid() != server:
        os._exit(1)
    try:
        os.environ.clear()
        os.environ.update(request.environment)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")  # the first to be killed, as Ray's workers are
        for report in request.task.reports():
            client.send(report)
    except Exception as error:
        lost = Lost(job_id=request.task.job.job_id, reason=f"{type(error).__name__}: {error}")
        with contextlib.suppress(OSError):
            client.send({"end": lost})
    finally:
        os._exit(0)
