"""TODO."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def makespan(running: Sequence[float], waiting: Sequence[float], capacity: int) -> float:
    """Time until all is done, if whatever waits starts, in its order, as soon as one of `capacity` places is free."""
    ends = [*running, *[0.0] * (capacity - len(running))]
    heapq.heapify(ends)
    for length in waiting:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)
