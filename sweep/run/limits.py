"""Reasons to stop a run early: the signals SIGINT and SIGTERM, the time limit, the GPU-hour budget."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

from sweep.grid.resources import Pool
from sweep.text import clock

HOUR_S = 3600


class Signals:
    """A context manager in which SIGTERM ends the run as Ctrl-C does.

    While `patient` is set, the first SIGTERM only records its time, so that running epochs can end. Signals after the
    first Ctrl-C are ignored, so that closing is not disturbed.
    """

    def __init__(self) -> None:
        self.patient = False
        self.preempted_at: float | None = None  # time.monotonic() of the first SIGTERM
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: object) -> None:
        if number == signal.SIGTERM and self.patient and self.preempted_at is None:
            self.preempted_at = time.monotonic()
            return
        for each in self._before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt


class Limits:
    """The limits of one run, which begins when this object is made."""

    def __init__(self, pool: Pool, signals: Signals) -> None:
        self._pool, self._signals = pool, signals
        self._began = time.monotonic()
        self.reached: str | None = None  # the first limit that was reached
        self.since = 0.0  # when it was (time.monotonic())

    def check(self, gpu_s: float) -> bool:
        """True if this call finds the first limit that is reached. `gpu_s`: GPU-seconds spent so far."""
        if self.reached is not None:
            return False
        pool, self.since = self._pool, time.monotonic()
        if self._signals.preempted_at is not None:
            self.reached, self.since = "asked to end (SIGTERM)", self._signals.preempted_at
        elif pool.time_limit_h is not None and self.since - self._began > pool.time_limit_h * HOUR_S:
            self.reached = f"the run's limit of {clock(pool.time_limit_h * HOUR_S)} is reached (time_limit_h)"
        elif pool.gpu_hours is not None and gpu_s > pool.gpu_hours * HOUR_S:
            self.reached = f"the run's limit of {pool.gpu_hours:g} GPU-hours is reached (gpu_hours)"
        return self.reached is not None

    @property
    def grace_is_over(self) -> bool:
        """True if running epochs have had their time to end."""
        return time.monotonic() - self.since > self._pool.grace_s
