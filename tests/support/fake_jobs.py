"""Jobs that do only what a test orders, for tests of executors: no training, no torch, no store, a quick start."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

from sweep.executors.base import Event, Executor, Finished, Lost, ResourceRequest


@dataclass(frozen=True, kw_only=True)
class FakeJob:
    """The fields of a job that executors read, and how long the job takes."""

    job_id: str
    cpus: int = 1
    gpus: float = 0.0
    accelerator_type: str | None = None
    seconds: float = 0.0
    until: str = ""  # name of a file in the study's folder, for which the job waits
    attempt: int = 1

    @property
    def resources(self) -> ResourceRequest:
        return ResourceRequest(cpus=self.cpus, gpus=self.gpus, accelerator_type=self.accelerator_type)


def largest_request(jobs: Iterable[FakeJob]) -> ResourceRequest:
    return ResourceRequest.largest(job.resources for job in jobs)


@dataclass(frozen=True, kw_only=True)
class Step:
    """Replaces an epoch's metrics: where the job runs."""

    node: str
    gpus: tuple[str, ...]


def run_fake(job: FakeJob, folder: Path) -> Generator[Step, None, Finished]:
    raylet = Path(f"/proc/{os.environ['RAY_RAYLET_PID']}/cmdline").read_text()
    node = re.search(r"--node_id=(\w+)", raylet)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    yield Step(node=node[1] if node else "", gpus=tuple(gpus.split(",") if gpus else ()))
    time.sleep(job.seconds)
    while job.until and not (folder / job.until).exists():
        time.sleep(0.05)
    return Finished(job_id=job.job_id, status="completed", error=None)


def run_at_once(job: FakeJob, folder: Path) -> Generator[int, None, Finished]:
    yield job.attempt
    return Finished(job_id=job.job_id, status="completed", error=None)


def run_faulty(job: FakeJob, folder: Path) -> Generator[int, None, Finished | Lost]:
    """Yield once; then the fault follows that is the job's id."""
    yield job.attempt
    match job.job_id:
        case "hangs":  # in C code that holds the GIL
            ctypes.PyDLL(None).sleep(1000)
        case "raises":
            raise RuntimeError("not a result")
        case "needs more memory":
            return Lost(job_id=job.job_id, reason="a batch does not fit", out_of_memory=True)
        case "dies":
            os.kill(os.getpid(), signal.SIGKILL)
    return Finished(job_id=job.job_id, status="completed", error=None)


def until(executor: Executor, done: Callable[[list[Event]], bool], timeout_s: float = 120) -> list[Event]:
    """Return the events up to those with which `done` is true."""
    events: list[Event] = []
    end = time.monotonic() + timeout_s
    while not done(events):
        assert time.monotonic() < end, events
        events += executor.poll(0.5)
    return events


def ended(jobs: Iterable[FakeJob]) -> Callable[[list[Event]], bool]:
    """Return a condition that is true when all of these jobs have ended."""
    ids = {job.job_id for job in jobs}
    return lambda events: ids <= {event.job_id for event in events if isinstance(event, Finished | Lost)}
