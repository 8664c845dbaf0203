"""Time until the last of several trials ends, when a fixed number of them run concurrently."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def makespan(running: Sequence[float], waiting: Sequence[float], capacity: int) -> float:
    """Return the time until all trials have ended. Waiting ones start in order, each when one of the slots is free.

    Args:
        running: time left of each running trial.
        waiting: duration of each trial that has not started.
        capacity: number of slots.
    """
    ends = [*running, *[0.0] * (capacity - len(running))]
    heapq.heapify(ends)
    for duration in waiting:
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)
