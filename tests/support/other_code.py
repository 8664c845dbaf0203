"""Folders with files that must not be imported in place of this program's, and a job that tells what was."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path

from fake_jobs import FakeJob

from sweep.executors.base import Finished
from sweep.files.code import PACKAGES


def own_files(folder: Path) -> None:
    """What a user may call files of his own."""
    for name in ("sweep.py", "statistics.py", "famba_core.py"):
        (folder / name).write_text(f"raise ImportError('the user\\'s own {name}')\n")


def clone(folder: Path) -> None:
    """Another clone of this repository, with a change."""
    for package in PACKAGES:
        shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "famba_core/training/evaluate.py").open("a") as lines:
        lines.write("BATCH_SIZE = 1\n")


def imported() -> tuple[str | None, ...]:
    """The files that this process imports."""
    import statistics

    import famba_core.training.evaluate
    import sweep.worker.job

    return tuple(module.__file__ for module in (statistics, famba_core.training.evaluate, sweep.worker.job))


def run_import(job: FakeJob, folder: Path) -> Generator[tuple[str | None, ...], None, Finished]:
    yield imported()
    return Finished(job_id=job.job_id, status="completed", error=None)
