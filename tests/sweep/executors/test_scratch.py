"""The folder for temporary files: short enough for sockets, alone, and gone when its run is."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweep.executors.ray_tune import scratch
from sweep.executors.ray_tune.scratch import PREFIX, Scratch


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short place of the test's own; pytest's are longer than Ray's sockets may be."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_folders_of_killed_runs_go_and_those_of_running_ones_stay(place: Path) -> None:
    code = f"""
import os, signal, tempfile
from sweep.executors.ray_tune.scratch import Scratch
tempfile.tempdir = {str(place)!r}
folder = Scratch().folder
(folder / "session").mkdir()
(folder / "session" / "log").touch()
os.kill(os.getpid(), signal.SIGKILL)
"""
    running = Scratch()
    subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": ":".join(sys.path)})
    (place / f"{PREFIX}of-nobody").touch()
    assert len(list(place.iterdir())) == 3
    mine = Scratch()
    assert {path for path in place.iterdir() if path.is_dir()} == {running.folder, mine.folder}
    for each in (running, mine):
        each.remove()
    assert [path.name for path in place.iterdir()] == [f"{PREFIX}of-nobody"]


def test_a_place_too_long_for_sockets_is_left_alone(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "SHORT_PLACE", str(place))
    long = tmp_path / ("x" * 150)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = Scratch()
    assert folder.folder.parent == place
    assert list(long.iterdir()) == []
    folder.remove()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    length = len(f"/{PREFIX}12345678/{scratch.SOCKET}")
    assert scratch._fits("x" * (107 - length))
    assert not scratch._fits("x" * (108 - length))
