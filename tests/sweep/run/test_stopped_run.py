"""A run that is interrupted, asked to end, or killed goes on with the same command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_training import starts

from sweep.store.study import read_rows

HERE = Path(__file__).parents[2] / "support"


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a run of four trials as a process of its own."""
    processes = []

    def start() -> subprocess.Popen[str]:
        processes.append(
            subprocess.Popen(
                [sys.executable, HERE / "fake_training.py", tmp_path],
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL]
)
def test_a_stopped_run_resumes(tmp_path: Path, number: int, launch: Callable) -> None:
    process = launch()
    while not len(list(tmp_path.glob("checkpoints/fake-seed1/last.pt"))):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, number)
    output, _ = process.communicate(timeout=20)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert "Stopped: 1 of 4 trials are stored." in output
        assert "Traceback" not in output
    stored = (tmp_path / "trials" / "fake-seed0.1.parquet").read_bytes()
    assert len(list(tmp_path.glob("trials/*"))) == 1

    again = launch()
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0, output
    assert (tmp_path / "trials" / "fake-seed0.1.parquet").read_bytes() == stored
    rows, damaged = read_rows(tmp_path)
    assert rows["status"].tolist() == ["completed"] * 4
    assert not damaged
    assert starts(tmp_path)[:2] == ["fake-seed0 1", "fake-seed1 1"]
    # seed 1 goes on after the epochs of its checkpoint, and seed 0 is not seen again
    assert starts(tmp_path)[2] in ("fake-seed1 2", "fake-seed1 3")
    assert starts(tmp_path)[3:] == ["fake-seed2 1", "fake-seed3 1"]
