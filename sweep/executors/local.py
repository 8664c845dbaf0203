"""One job after another in this process: for a debugger, a profiler, a machine without Ray."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.errors import UserError
from sweep.executors.base import Event, Finished, Job, Lost, Measured, Progress, RunJob, Started
from sweep.plan.model import Trial

if TYPE_CHECKING:
    from famba_core.training.trainer import EpochMetrics


class LocalExecutor:
    """Trains one epoch, or takes one measurement, in each `poll`.

    More `cpus_per_trial` than the machine has cores are only slow, and give the numbers that were planned; a GPU
    that is not there raises UserError.
    """

    capacity = 1

    def __init__(self, folder: Path, trials: Sequence[Trial], *, run: RunJob) -> None:
        import torch

        gpus, there = max(trial.gpus_per_trial for trial in trials), torch.cuda.device_count()
        if gpus > there:
            raise UserError(f"a trial takes {gpus:g} GPUs (gpus_per_trial), and this machine has {there}")
        self.gpu_memory_mib = torch.cuda.get_device_properties(0).total_memory / 2**20 if gpus else None
        self._folder = folder
        self._run = run
        self._job_id = ""
        self._steps: Generator[EpochMetrics | Measured, None, Finished | Lost] | None = None
        self._events: list[Event] = []  # that no step brings

    def submit(self, job: Job, attempt: int) -> None:
        assert self._steps is None, "one job at a time"
        self._job_id = job.trial_id
        self._steps = self._run(job, attempt, self._folder)
        self._events.append(Started(trial_id=job.trial_id))

    def poll(self, timeout_s: float) -> list[Event]:
        if self._events:
            events, self._events = self._events, []
            return events
        if self._steps is None:
            return []
        try:
            return [Progress(trial_id=self._job_id, metrics=next(self._steps))]
        except StopIteration as end:
            event: Event = end.value
        except Exception as error:  # what was to be stored could not be
            event = Lost(trial_id=self._job_id, reason=f"{type(error).__name__}: {error}")
        self._steps = None
        return [event]

    def stop(self, trial_id: str) -> None:
        if self._steps is not None and trial_id == self._job_id:
            self.close()
            self._events.append(Lost(trial_id=trial_id, reason="stopped"))

    def close(self) -> None:
        if self._steps is not None:
            self._steps.close()
            self._steps = None
