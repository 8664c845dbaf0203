"""The executor that runs one job after another in this process, for a debugger or a profiler, or without Ray."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from famba_core.training.metrics import EpochMetrics
from sweep.errors import UserError
from sweep.executors.base import Event, Finished, Job, Lost, Measured, Progress, ResourceRequest, RunJob, Started


class LocalExecutor:
    """Runs one job in this process: each `poll` trains one epoch or takes one measurement.

    CPUs are not checked, because too few of them are only slow. Raises UserError if this machine has too few GPUs.

    Args:
        request: resources of the largest job.
        run: what is done for a job.
    """

    capacity = 1

    def __init__(self, folder: Path, request: ResourceRequest, *, run: RunJob) -> None:
        import torch

        available = torch.cuda.device_count()
        if request.gpus > available:
            raise UserError(f"a trial takes {request.gpus:g} GPUs (gpus_per_trial), but this machine has {available}")
        self.gpu_memory_mib = torch.cuda.get_device_properties(0).total_memory / 2**20 if request.gpus else None
        self._folder, self._run = folder, run
        self._job_id = ""
        self._steps: Generator[EpochMetrics | Measured, None, Finished | Lost] | None = None
        self._events: list[Event] = []  # events that do not come from a step

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
        except Exception as error:  # the job could not store its result
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
