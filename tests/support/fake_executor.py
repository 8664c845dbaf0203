"""An executor without workers: a test decides what happens in each poll."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fake_training import fake_measure

from sweep.executors.base import Event, Finished, Job, Lost, Measured, MeasureJob, Progress, Started, TrainJob
from sweep.plan.identity import measure_id
from sweep.store.study import write_measurement, write_result
from sweep.worker.rows import failed_row


class FakeExecutor:
    """An executor whose polls return the events of `act`; it records what runs concurrently.

    Args:
        measured_peak_mib: a measuring job stores one measurement with this peak in each poll; None forbids such jobs.
    """

    gpu_memory_mib: float | None = None

    def __init__(
        self,
        act: Callable[[FakeExecutor], list[Event]],
        *,
        capacity: int = 2,
        measured_peak_mib: float | None = None,
    ) -> None:
        self.act, self.capacity, self.measured_peak_mib = act, capacity, measured_peak_mib
        self.running: dict[str, TrainJob] = {}
        self.submitted: list[TrainJob] = []
        self.beside: list[set[str]] = []  # the running jobs after each submission
        self.waiting: list[str] = []
        self.measuring: MeasureJob | None = None
        self.stopped: list[str] = []
        self.closed = False

    def __call__(self, folder: Path, resources: object) -> FakeExecutor:
        self.folder = folder
        return self

    def submit(self, job: Job) -> None:
        if isinstance(job, MeasureJob):
            assert self.measured_peak_mib is not None, "nothing is measured in this test"
            self.measuring, self.to_measure = job, list(job.trials)
            return
        self.running[job.job_id] = job
        self.submitted.append(job)
        self.waiting.append(job.job_id)
        self.beside.append(set(self.running))

    def poll(self, timeout_s: float) -> list[Event]:
        if self.measuring is not None:
            return [self.measure_next(self.measuring)]
        begun, self.waiting = self.waiting, []
        return [*(Started(job_id=job_id) for job_id in begun), *self.act(self)]

    def measure_next(self, job: MeasureJob) -> Event:
        if not self.to_measure:
            self.measuring = None
            return Finished(job_id=job.job_id, status="completed", error=None)
        trial = self.to_measure.pop(0)
        row = fake_measure(self.folder / "measured.txt")(trial)
        write_measurement(self.folder, replace(row, peak_memory_mib=self.measured_peak_mib))
        return Progress(job_id=job.job_id, metrics=Measured(measure_id=measure_id(trial), error=None))

    def stop(self, job_id: str) -> None:
        self.stopped.append(job_id)
        self.measuring = None

    def close(self) -> None:
        self.closed = True

    def complete(self, job_id: str) -> Finished:
        """End a running job with a stored row."""
        job = self.running.pop(job_id)
        write_result(self.folder, replace(failed_row(job, ""), status="completed", error=None), ())
        return Finished(job_id=job_id, status="completed", error=None)

    def lose(self, job_id: str, **how: Any) -> Lost:
        """End a running job as lost."""
        del self.running[job_id]
        return Lost(job_id=job_id, reason="it was lost", **how)


def complete_first(executor: FakeExecutor) -> list[Event]:
    return [executor.complete(next(iter(executor.running)))]
