"""Jobs that do nothing but what a test orders, for executors without training: no torch, no store, a quick start."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

from sweep.executors.base import Event, Executor, Finished, Lost, ResourceRequest


@dataclass(frozen=True, kw_only=True)
class FakeJob:
    """What an executor looks at in a job, and how long it takes."""

    job_id: str
    cpus: int = 1
    gpus: float = 0.0
    accelerator_type: str | None = None
    seconds: float = 0.0
    until: str = ""  # a file in the study's folder; it waits for it

    @property
    def resources(self) -> ResourceRequest:
        return ResourceRequest(cpus=self.cpus, gpus=self.gpus, accelerator_type=self.accelerator_type)


def largest(jobs: Iterable[FakeJob]) -> ResourceRequest:
    return ResourceRequest.largest(job.resources for job in jobs)


@dataclass(frozen=True, kw_only=True)
class Step:
    """In place of an epoch's metrics: where the job runs."""

    node: str
    gpus: tuple[str, ...]


def run_fake(job: FakeJob, folder: Path) -> Generator[Step, None, Finished]:
    import ray

    context = ray.get_runtime_context()
    yield Step(node=context.get_node_id(), gpus=tuple(context.get_accelerator_ids()["GPU"]))
    time.sleep(job.seconds)
    while job.until and not (folder / job.until).exists():
        time.sleep(0.05)
    return Finished(job_id=job.job_id, status="completed", error=None)


def run_at_once(job: FakeJob, folder: Path) -> Generator[int, None, Finished]:
    yield 1
    return Finished(job_id=job.job_id, status="completed", error=None)


def run_faulty(job: FakeJob, folder: Path) -> Generator[int, None, Finished | Lost]:
    """Yields once; what follows is the fault that the job is called by."""
    yield 1
    match job.job_id:
        case "hangs":  # in C code, without a chance for another thread of Python
            ctypes.PyDLL(None).sleep(1000)
        case "raises":
            raise RuntimeError("not a result")
        case "needs more memory":
            return Lost(job_id=job.job_id, reason="no room for a batch", out_of_memory=True)
        case "dies":
            os.kill(os.getpid(), signal.SIGKILL)
    return Finished(job_id=job.job_id, status="completed", error=None)


def until(executor: Executor, done: Callable[[list[Event]], bool], timeout_s: float = 120) -> list[Event]:
    """The events up to the moment when they are as they should be."""
    events: list[Event] = []
    end = time.monotonic() + timeout_s
    while not done(events):
        assert time.monotonic() < end, events
        events += executor.poll(0.5)
    return events


def ended(jobs: Iterable[FakeJob]) -> Callable[[list[Event]], bool]:
    """Whether all of these have ended."""
    ids = {job.job_id for job in jobs}
    return lambda events: ids <= {event.job_id for event in events if isinstance(event, Finished | Lost)}
