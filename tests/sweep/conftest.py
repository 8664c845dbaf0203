"""What tests of the executors share."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.executors.ray_tune import executor as ray_executor


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The names of the processes left in the sessions of the test's executors; gives them some seconds to end."""
    sessions: list[int] = []
    start = ray_executor._start_process

    def started(pipe_fd: int) -> subprocess.Popen[bytes]:
        process = start(pipe_fd)
        sessions.append(process.pid)
        return process

    def alive() -> list[str]:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                name, _, rest = stat.read_text().rpartition(")")
                state, _, _, session = rest.split()[:4]
                if int(session) in sessions and state != "Z":
                    found.append(name)
        return found

    def left() -> list[str]:
        assert sessions
        deadline = time.monotonic() + 15
        while alive() and time.monotonic() < deadline:
            time.sleep(0.1)
        return alive()

    monkeypatch.setattr(ray_executor, "_start_process", started)
    return left
