"""An executor that does what a test tells it to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweep.executors.base import Event, Finished, Lost, MeasureJob, Started
from sweep.plan.model import Trial
from sweep.store.study import write_result
from sweep.worker.rows import failed_row


class Puppet:
    """An executor whose every poll asks `act` for the events; it records what runs beside what."""

    gpu_memory_mib: float | None = None

    def __init__(self, act: Callable[[Puppet], list[Event]], *, capacity: int = 2) -> None:
        self.act, self.capacity = act, capacity
        self.running: dict[str, tuple[Trial, int]] = {}
        self.submitted: list[Trial] = []
        self.beside: list[set[str]] = []
        self.waiting: list[str] = []

    def __call__(self, folder: Path, trials: object) -> Puppet:
        self.folder = folder
        return self

    def submit(self, job: Trial, attempt: int) -> None:
        assert not isinstance(job, MeasureJob)
        self.running[job.trial_id] = job, attempt
        self.submitted.append(job)
        self.waiting.append(job.trial_id)
        self.beside.append(set(self.running))

    def poll(self, timeout_s: float) -> list[Event]:
        begun, self.waiting = self.waiting, []
        return [*(Started(trial_id=trial_id) for trial_id in begun), *self.act(self)]

    def stop(self, trial_id: str) -> None: ...

    def close(self) -> None: ...

    def complete(self, trial_id: str) -> Finished:
        trial, attempt = self.running.pop(trial_id)
        write_result(self.folder, replace(failed_row(trial, attempt, ""), status="completed", error=None), ())
        return Finished(trial_id=trial_id, status="completed", error=None)

    def lose(self, trial_id: str, **how: Any) -> Lost:
        del self.running[trial_id]
        return Lost(trial_id=trial_id, reason="it was lost", **how)


def complete_first(puppet: Puppet) -> list[Event]:
    return [puppet.complete(next(iter(puppet.running)))]
