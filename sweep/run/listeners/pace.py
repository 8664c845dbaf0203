"""How fast trials go, and when the last one is expected to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweep.price.estimate import makespan


class Pace:
    """The pace of trials, in seconds per unit of work, from which it forecasts the time left.

    Args:
        weights: the work of each whole trial, in any unit.
    """

    def __init__(self, weights: Mapping[str, float], *, waiting: Sequence[str], capacity: int) -> None:
        # in order of start; a search may start other trials in their place
        self._waiting = {trial_id: weights[trial_id] for trial_id in waiting}
        self._running: dict[str, float] = {}  # work left
        self._begun: set[str] = set()
        self._capacity = capacity
        self._weights = weights
        self._seconds: dict[str, float] = {}
        self._work: dict[str, float] = {}

    def start(self, trial_id: str) -> None:
        """Count a trial as running, in place of a waiting one."""
        if trial_id in self._waiting:
            del self._waiting[trial_id]
        elif trial_id not in self._begun and self._waiting:
            self._waiting.popitem()
        self._begun.add(trial_id)
        self._running[trial_id] = self._weights[trial_id]

    def advance(self, trial_id: str, *, epoch: int, epochs: int, seconds: float) -> None:
        """Add an epoch that took `seconds` of wall time."""
        weight = self._weights[trial_id]
        self._seconds[trial_id] = self._seconds.get(trial_id, 0) + seconds
        self._work[trial_id] = self._work.get(trial_id, 0) + weight / epochs
        self._running[trial_id] = weight * (1 - epoch / epochs)

    def end(self, trial_id: str) -> None:
        del self._running[trial_id]

    def trial_eta_s(self, trial_id: str) -> float | None:
        """Return the seconds from the trial's last epoch to its end; None before its first epoch."""
        if trial_id not in self._work or trial_id not in self._running:  # it may end while the screen is drawn
            return None
        return self._running[trial_id] * self._seconds[trial_id] / self._work[trial_id]

    def study_eta_s(self) -> float | None:
        """Return the seconds until the last trial ends; None before the first epoch of any trial."""
        if not self._work:
            return None
        work = makespan([*self._running.values()], [*self._waiting.values()], self._capacity)
        return work * sum(self._seconds.values()) / sum(self._work.values())
