"""Runs one job after another in this process: for a debugger, a profiler, or a machine without Ray."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.errors import UserError
from sweep.executors.base import Event, Finished, Job, Lost, Measured, Progress, ResourceRequest, RunJob, Started

if TYPE_CHECKING:
    from famba_core.training.trainer import EpochMetrics


class LocalExecutor:
    """Trains one epoch, or takes one measurement, in each `poll`.

    More CPUs than the machine has cores are only slow. Raises UserError if a job needs more GPUs than the machine has.
    """

    capacity = 1

    def __init__(self, folder: Path, resources: ResourceRequest, *, run: RunJob) -> None:
        import torch

        gpus, available = resources.gpus, torch.cuda.device_count()
        if gpus > available:
            raise UserError(f"a trial takes {gpus:g} GPUs (gpus_per_trial), and this machine has {available}")
        self.gpu_memory_mib = torch.cuda.get_device_properties(0).total_memory / 2**20 if gpus else None
        self._folder, self._run = folder, run
        self._job_id = ""
        self._steps: Generator[EpochMetrics | Measured, None, Finished | Lost] | None = None
        self._events: list[Event] = []  # events that come from no step

    def submit(self, job: Job) -> None:
        assert self._steps is None, "one job at a time"
        self._job_id = job.job_id
        self._steps = self._run(job, self._folder)
        self._events.append(Started(job_id=job.job_id))

    def poll(self, timeout_s: float) -> list[Event]:
        if self._events:
            events, self._events = self._events, []
            return events
        if self._steps is None:
            return []
        try:
            return [Progress(job_id=self._job_id, metrics=next(self._steps))]
        except StopIteration as end:
            event: Event = end.value
        except Exception as error:  # the worker could not store its result
            event = Lost(job_id=self._job_id, reason=f"{type(error).__name__}: {error}")
        self._steps = None
        return [event]

    def stop(self, job_id: str) -> None:
        if self._steps is not None and job_id == self._job_id:
            self.close()
            self._events.append(Lost(job_id=job_id, reason="stopped"))

    def close(self) -> None:
        if self._steps is not None:
            self._steps.close()
            self._steps = None
