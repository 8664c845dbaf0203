"""What a run reports while it runs, and who hears it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweep.executors.base import TrainJob
from sweep.schema import Status

if TYPE_CHECKING:
    from famba_core.training.trainer import EpochMetrics


class RunListener:
    """A listener to a run. Every method does nothing; a listener overrides those that it needs.

    Methods are called from the thread of the run, in the order of events, and must not raise.
    """

    def run_began(self, trial_ids: Sequence[str], *, planned: int, capacity: int) -> None:
        """Hear which trials are left to train, out of `planned`, and how many run concurrently.

        A search may train other trials than these.
        """

    def run_ended(self) -> None:
        """Hear that nothing runs any more. Called once for each `run_began`, also after an error."""

    def measuring_began(self, total: int) -> None:
        """Hear that `total` measurements are taken before the next trial starts."""

    def measured(self, done: int) -> None:
        """Hear that `done` of the measurements have ended."""

    def measuring_ended(self) -> None:
        """Hear that no more measurements are taken for now."""

    def started(self, job: TrainJob) -> None:
        """Hear that a job was submitted."""

    def progress(self, trial_id: str, metrics: EpochMetrics) -> None:
        """Hear that an epoch of a trial has ended."""

    def lost(self, trial_id: str, reason: str) -> None:
        """Hear that a trial's worker died and the trial will run again."""

    def ended(self, trial_id: str, status: Status, error: str | None) -> None:
        """Hear that a trial's row is stored."""

    def note(self, sentence: str) -> None:
        """Hear a sentence for the user."""


class Broadcast(RunListener):
    """A listener that passes everything on to several others."""

    def __init__(self, listeners: Sequence[RunListener]) -> None:
        self._listeners = tuple(listeners)

    def run_began(self, trial_ids: Sequence[str], *, planned: int, capacity: int) -> None:
        for listener in self._listeners:
            listener.run_began(trial_ids, planned=planned, capacity=capacity)

    def run_ended(self) -> None:
        for listener in self._listeners:
            listener.run_ended()

    def measuring_began(self, total: int) -> None:
        for listener in self._listeners:
            listener.measuring_began(total)

    def measured(self, done: int) -> None:
        for listener in self._listeners:
            listener.measured(done)

    def measuring_ended(self) -> None:
        for listener in self._listeners:
            listener.measuring_ended()

    def started(self, job: TrainJob) -> None:
        for listener in self._listeners:
            listener.started(job)

    def progress(self, trial_id: str, metrics: EpochMetrics) -> None:
        for listener in self._listeners:
            listener.progress(trial_id, metrics)

    def lost(self, trial_id: str, reason: str) -> None:
        for listener in self._listeners:
            listener.lost(trial_id, reason)

    def ended(self, trial_id: str, status: Status, error: str | None) -> None:
        for listener in self._listeners:
            listener.ended(trial_id, status, error)

    def note(self, sentence: str) -> None:
        for listener in self._listeners:
            listener.note(sentence)
