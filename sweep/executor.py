"""What the runner sees of the place where jobs run, trials and measurements: submit, poll, close."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sweep.measure import Measured, MeasureJob
from sweep.plan import TrialPlan
from sweep.schema import Status

if TYPE_CHECKING:
    from famba_core.train import EpochMetrics  # would import torch into a process that only drives


Job = TrialPlan | MeasureJob


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A job has got further: a trial by an epoch, a measuring job by a measurement."""

    trial_id: str  # of the job
    metrics: EpochMetrics | Measured


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A job has ended, well or badly, and its worker has stored what it gave."""

    trial_id: str
    status: Status
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A job has ended and its worker could not say that all is stored: it was killed, or its disk is full."""

    trial_id: str
    reason: str


Event = Progress | Finished | Lost


class Executor(Protocol):
    """Resume, retries and the store live above it, so that every executor has the same."""

    @property
    def capacity(self) -> int:
        """Trials that can run at the same time."""

    def submit(self, job: Job, attempt: int) -> None:
        """Start a trial, or continue it from its checkpoint; at most `capacity` may be under way. Or measure, alone."""

    def poll(self, timeout_s: float) -> list[Event]:
        """Events since the last call, in order; waits for the first one, about `timeout_s` at most."""

    def close(self) -> None:
        """Stop what runs, leaving its checkpoints, and free everything. A second call does nothing."""
