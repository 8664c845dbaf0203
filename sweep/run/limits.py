"""Reasons to stop a run early: SIGTERM, the time limit, the GPU-hour budget."""

from __future__ import annotations

import time
from collections.abc import Callable

from sweep.grid.resources import Pool
from sweep.text import clock

HOUR_S = 3600


class Limits:
    """The limits of one run, which begins when this object is made.

    Args:
        preempted_at: returns when this process received SIGTERM (time.monotonic()), or None.
    """

    def __init__(self, pool: Pool, preempted_at: Callable[[], float | None]) -> None:
        self._pool, self._preempted_at = pool, preempted_at
        self._began = time.monotonic()
        self._reached: tuple[str, float] | None = None

    def reason_to_end(self, gpu_s: float) -> str | None:
        """Return the first limit that was reached, or None. `gpu_s` is the number of GPU-seconds spent so far."""
        if self._reached is None:
            self._reached = self._check(gpu_s)
        return self._reached[0] if self._reached else None

    @property
    def since(self) -> float:
        """Return when this limit was reached (time.monotonic())."""
        assert self._reached
        return self._reached[1]

    @property
    def grace_is_over(self) -> bool:
        """True if running epochs have had their time to end."""
        return time.monotonic() - self.since > self._pool.grace_s

    def _check(self, gpu_s: float) -> tuple[str, float] | None:
        pool, now = self._pool, time.monotonic()
        if (preempted := self._preempted_at()) is not None:
            return "asked to end (SIGTERM)", preempted
        if pool.time_limit_h is not None and now - self._began > pool.time_limit_h * HOUR_S:
            return f"the run's limit of {clock(pool.time_limit_h * HOUR_S)} is reached (time_limit_h)", now
        if pool.gpu_hours is not None and gpu_s > pool.gpu_hours * HOUR_S:
            return f"the run's limit of {pool.gpu_hours:g} GPU-hours is reached (gpu_hours)", now
        return None
