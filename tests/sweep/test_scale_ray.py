"""Ten thousand jobs that do nothing: what Ray costs for each, and whether that grows."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from fake_jobs import FakeJob, run_at_once

from sweep.driver import RayExecutor
from sweep.executor import Finished

JOBS = 10_000


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_overhead_and_memory_stay_low(tmp_path: Path) -> None:
    import ray  # noqa: F401 - brings psutil along
    import psutil  # isort: skip

    job = FakeJob(trial_id="")
    waiting = (replace(job, trial_id=f"job{i}") for i in range(JOBS))
    with closing(RayExecutor(tmp_path, [job], run=run_at_once, reuse_workers=True)) as executor:
        processes = [psutil.Process(), psutil.Process(executor._process.pid)]
        ended: list[str] = []
        start, running, peak = time.monotonic(), 0, 0
        while len(ended) < JOBS:
            while running < executor.capacity and (job := next(waiting, None)):
                executor.submit(job, 1)
                running += 1
            for event in executor.poll(1):
                if isinstance(event, Finished):
                    ended.append(event.trial_id)
                    running -= 1
            peak = max(peak, sum(process.memory_info().rss for process in processes))
        per_job_ms = 1e3 * (time.monotonic() - start) / JOBS
    print(f"{per_job_ms:.1f} ms a job, {peak / 2**20:.0f} MiB in the driver and in Ray's process")
    assert len(set(ended)) == JOBS
    assert per_job_ms < 50
    assert peak < 2**30
