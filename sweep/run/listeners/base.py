"""Listeners to a run: the calls they receive, and one that passes them on to several others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec

from famba_core.training.metrics import EpochMetrics
from sweep.executors.base import TrainJob
from sweep.schema import Status

P = ParamSpec("P")


class RunListener:
    """A listener to a run. Its methods do nothing; a subclass overrides those that it needs.

    They are called in the run's thread, in the order of events, and must not raise.
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


def _pass_on(method: Callable[Concatenate[RunListener, P], None]) -> Callable[Concatenate[Broadcast, P], None]:
    def pass_on(self: Broadcast, /, *args: P.args, **kwargs: P.kwargs) -> None:
        for listener in self.listeners:
            getattr(listener, method.__name__)(*args, **kwargs)

    return pass_on


class Broadcast(RunListener):
    """A listener that passes every call on to several others, in their order."""

    def __init__(self, listeners: Sequence[RunListener]) -> None:
        self.listeners = tuple(listeners)

    run_began = _pass_on(RunListener.run_began)
    run_ended = _pass_on(RunListener.run_ended)
    measuring_began = _pass_on(RunListener.measuring_began)
    measured = _pass_on(RunListener.measured)
    measuring_ended = _pass_on(RunListener.measuring_ended)
    started = _pass_on(RunListener.started)
    progress = _pass_on(RunListener.progress)
    lost = _pass_on(RunListener.lost)
    ended = _pass_on(RunListener.ended)
    note = _pass_on(RunListener.note)
