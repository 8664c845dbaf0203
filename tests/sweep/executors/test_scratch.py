"""The run's folder for temporary files: its path fits sockets, other runs leave it alone, and it is deleted."""

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
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder with a short path; pytest's are too long for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_a_new_run_deletes_the_folders_of_killed_runs_only(parent: Path) -> None:
    code = f"""
import os, signal, tempfile
from sweep.executors.ray_tune.scratch import Scratch
tempfile.tempdir = {str(parent)!r}
folder = Scratch().folder
(folder / "session").mkdir()
(folder / "session" / "log").touch()
os.kill(os.getpid(), signal.SIGKILL)
"""
    running = Scratch()
    subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": ":".join(sys.path)})
    (parent / f"{PREFIX}of-nobody").touch()
    assert len(list(parent.iterdir())) == 3
    new = Scratch()
    assert {path for path in parent.iterdir() if path.is_dir()} == {running.folder, new.folder}
    for each in (running, new):
        each.remove()
    assert [path.name for path in parent.iterdir()] == [f"{PREFIX}of-nobody"]


def test_scratch_avoids_a_tmpdir_too_long_for_sockets(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "SHORT_PARENT", str(parent))
    long = tmp_path / ("x" * 150)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = Scratch()
    assert folder.folder.parent == parent
    assert list(long.iterdir()) == []
    folder.remove()
    monkeypatch.setattr(tempfile, "tempdir", str(parent))
    length = len(f"/{PREFIX}12345678/{scratch.SOCKET}")
    assert scratch._fits_sockets("x" * (107 - length))
    assert not scratch._fits_sockets("x" * (108 - length))
