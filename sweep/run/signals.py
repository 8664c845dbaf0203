"""TODO."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any


class Signals:
    """While the block runs SIGTERM ends it as Ctrl-C does, unless the block is `patient`: then the first one only
    leaves the time at which it came. What follows a first Ctrl-C cannot disturb the closing."""

    def __init__(self) -> None:
        self.patient = False
        self.preempted_at: float | None = None  # time.monotonic()
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
