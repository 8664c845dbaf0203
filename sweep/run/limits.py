"""When a run must end although something is left to do: it was asked to, or has spent what it may."""

from __future__ import annotations

import time
from collections.abc import Callable

from sweep.grid.resources import Pool
from sweep.text import clock

HOUR_S = 3600


class Limits:
    """Of one run, which begins now.

    Args:
        preempted_at: when this process was asked to end soon (time.monotonic()), if it was.
    """

    def __init__(self, pool: Pool, preempted_at: Callable[[], float | None]) -> None:
        self._pool, self._preempted_at = pool, preempted_at
        self._began = time.monotonic()
        self._ends: tuple[str, float] | None = None

    def reason_to_end(self, gpu_s: float) -> str | None:
        """The first reason that there was, after `gpu_s` GPU-seconds were spent."""
        if self._ends is None and (found := self._look(gpu_s)):
            self._ends = found
        return self._ends[0] if self._ends else None

    @property
    def since(self) -> float:
        """When that reason came up (time.monotonic())."""
        assert self._ends
        return self._ends[1]

    @property
    def patience_is_over(self) -> bool:
        """Whether running epochs have had their time to end."""
        return time.monotonic() - self.since > self._pool.grace_s

    def _look(self, gpu_s: float) -> tuple[str, float] | None:
        pool, now = self._pool, time.monotonic()
        if (asked := self._preempted_at()) is not None:
            return "asked to end (SIGTERM)", asked
        if pool.time_limit_h is not None and now - self._began > pool.time_limit_h * HOUR_S:
            return f"the run's limit of {clock(pool.time_limit_h * HOUR_S)} is reached (time_limit_h)", now
        if pool.gpu_hours is not None and gpu_s > pool.gpu_hours * HOUR_S:
            return f"the run's limit of {pool.gpu_hours:g} GPU-hours is reached (gpu_hours)", now
        return None
