"""Handles SIGINT and SIGTERM while trials run."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any


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
            self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            for number in self._before:
                signal.signal(number, self._receive)
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
