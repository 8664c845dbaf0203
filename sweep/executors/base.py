"""What the runner sees of the place where jobs run, trials and measurements: submit, poll, stop, close."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sweep.plan.model import Trial
from sweep.schema import Status

if TYPE_CHECKING:
    from famba_core.training.trainer import EpochMetrics  # would import torch into a process that only drives


@dataclass(frozen=True, kw_only=True)
class MeasureJob:
    """Measurements to take one after another in one process. To an executor it is a job as a trial is."""

    trials: tuple[Trial, ...]  # one for each measurement
    trial_id: str = "measuring"

    @property
    def cpus_per_trial(self) -> int:
        return max(trial.cpus_per_trial for trial in self.trials)

    @property
    def accelerator_type(self) -> str | None:
        return self.trials[0].accelerator_type

    @property
    def gpus_per_trial(self) -> float:
        return 1.0 if any(trial.gpus_per_trial for trial in self.trials) else 0.0  # a whole one, for trials that share


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A measurement has been taken and stored, or has failed."""

    measure_id: str
    error: str | None


Job = Trial | MeasureJob


@dataclass(frozen=True, kw_only=True)
class Started:
    """A job's worker runs now; until then the job waited for room."""

    trial_id: str  # of the job, here and below


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A job has got further: a trial by an epoch, a measuring job by a measurement."""

    trial_id: str
    metrics: EpochMetrics | Measured


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A job has ended, well or badly, and its worker has stored what it gave."""

    trial_id: str
    status: Status
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A job has ended and nothing says that all of it is stored: it was killed or stopped, ran out of memory, or its
    disk is full."""

    trial_id: str
    reason: str
    out_of_memory: bool = False  # it may fit where nothing shares its device
    machine_left: bool = False  # with its machine: not the trial's doing, however often
    folder_failed: bool = False  # the study's folder is full or read-only: no other trial could store its row


Event = Started | Progress | Finished | Lost

# What a worker does for a job (attempt, study folder): yields its steps, returns its end.
# `sweep.worker.job.run_job` is the real one.
RunJob = Callable[[Job, int, Path], Generator["EpochMetrics | Measured", None, Finished | Lost]]


class Executor(Protocol):
    """Resume, retries and the store live above it, so that every executor has the same."""

    @property
    def capacity(self) -> int:
        """Jobs of the size that it was made for that can run at the same time; it changes as machines come and go."""

    @property
    def gpu_memory_mib(self) -> float | None:
        """Of the smallest GPU that trials may get; None if there is none, or nobody knows."""

    def submit(self, job: Job, attempt: int) -> None:
        """Start a trial, or continue it from its checkpoint. Or measure, alone. What finds no room waits for it."""

    def poll(self, timeout_s: float) -> list[Event]:
        """Events since the last call, in order; waits for the first one, about `timeout_s` at most."""

    def stop(self, trial_id: str) -> None:
        """End a job's worker at once, whatever it does; its Lost follows, unless it has just ended by itself."""

    def close(self) -> None:
        """Stop what runs, leaving its checkpoints, and free everything. A second call does nothing."""
