"""Workers import what the driver imported, whatever the current folder holds, or run nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fake_jobs import FakeJob, ended, until
from other_code import clone, imported, own_files, run_import

from sweep.errors import UserError
from sweep.executors.base import Finished, Progress
from sweep.executors.ray_tune import executor as ray_executor
from sweep.executors.ray_tune.executor import RayExecutor

JOB = FakeJob(job_id="job")


@pytest.mark.parametrize("make", [own_files, clone])
def test_workers_import_what_the_driver_imported(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here := tmp_path / "here").mkdir()
    make(here)
    monkeypatch.chdir(here)
    with closing(RayExecutor(tmp_path, JOB.resources, run=run_import)) as executor:
        executor.submit(JOB)
        events = until(executor, ended([JOB]))
    assert isinstance(events[-1], Finished)
    assert [event.metrics for event in events if isinstance(event, Progress)] == [imported()]


def test_code_that_is_changed_during_a_run_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "code_hash", lambda: "of before")
    with closing(RayExecutor(tmp_path, JOB.resources, run=run_import)) as executor:
        executor.submit(JOB)
        with pytest.raises(UserError, match=r"other code in .* than the driver \(hash of before\): install the same"):
            until(executor, ended([JOB]))
