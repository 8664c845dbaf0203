"""What the runner sees of the place where trials run: submit, poll, close."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sweep.plan import TrialPlan
from sweep.schema import Status

if TYPE_CHECKING:
    from famba_core.train import EpochMetrics  # would import torch into a process that only drives


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A trial has ended an epoch."""

    trial_id: str
    metrics: EpochMetrics


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A trial has ended, well or badly, and its worker has stored its row."""

    trial_id: str
    status: Status
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A trial has ended and its worker could not say that it stored a row: it was killed, or its disk is full."""

    trial_id: str
    reason: str


Event = Progress | Finished | Lost


class Executor(Protocol):
    """Resume, retries and the store live above it, so that every executor has the same."""

    @property
    def capacity(self) -> int:
        """Trials that can run at the same time."""

    def submit(self, trial: TrialPlan, attempt: int) -> None:
        """Start a trial, or continue it from its checkpoint. At most `capacity` may be under way."""

    def poll(self, timeout_s: float) -> list[Event]:
        """Events since the last call, in order; waits for the first one, about `timeout_s` at most."""

    def close(self) -> None:
        """Stop what runs, leaving its checkpoints, and free everything. A second call does nothing."""
