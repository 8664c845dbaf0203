"""An executor that does what a test tells it to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweep.executors.base import Event, Finished, Lost, Started, TrainJob
from sweep.store.study import write_result
from sweep.worker.rows import failed_row


class Puppet:
    """An executor whose every poll asks `act` for the events; it records what runs concurrently."""

    gpu_memory_mib: float | None = None

    def __init__(self, act: Callable[[Puppet], list[Event]], *, capacity: int = 2) -> None:
        self.act, self.capacity = act, capacity
        self.running: dict[str, TrainJob] = {}
        self.submitted: list[TrainJob] = []
        self.beside: list[set[str]] = []
        self.waiting: list[str] = []

    def __call__(self, folder: Path, resources: object) -> Puppet:
        self.folder = folder
        return self

    def submit(self, job: TrainJob) -> None:
        assert isinstance(job, TrainJob)
        self.running[job.job_id] = job
        self.submitted.append(job)
        self.waiting.append(job.job_id)
        self.beside.append(set(self.running))

    def poll(self, timeout_s: float) -> list[Event]:
        begun, self.waiting = self.waiting, []
        return [*(Started(job_id=job_id) for job_id in begun), *self.act(self)]

    def stop(self, job_id: str) -> None: ...

    def close(self) -> None: ...

    def complete(self, job_id: str) -> Finished:
        job = self.running.pop(job_id)
        write_result(self.folder, replace(failed_row(job, ""), status="completed", error=None), ())
        return Finished(job_id=job_id, status="completed", error=None)

    def lose(self, job_id: str, **how: Any) -> Lost:
        del self.running[job_id]
        return Lost(job_id=job_id, reason="it was lost", **how)


def complete_first(puppet: Puppet) -> list[Event]:
    return [puppet.complete(next(iter(puppet.running)))]
