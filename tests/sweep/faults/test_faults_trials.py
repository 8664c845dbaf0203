"""A trial that fails by itself becomes a row with a reason; the other trials continue."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_training import ALWAYS_OUT_OF_MEMORY, DIVERGES, HANGS, OUT_OF_MEMORY, RAISES, starts
from fault_study import cost, faulty_job, run, stored, study

from sweep.executors.base import Event, Finished, Job, Lost, Progress, ResourceRequest
from sweep.executors.ray_tune.executor import RayExecutor
from sweep.store.study import read_rows, select_outcomes
from sweep.worker.job import warm_up

SEEDS = (0, RAISES, HANGS, OUT_OF_MEMORY, DIVERGES, ALWAYS_OUT_OF_MEMORY)
LIMIT_H = 2.0


class SkippingExecutor(RayExecutor):
    """When only the hanging trial still runs, the runner's clock skips the hours until the time limit."""

    skipped_s = 0.0

    def __init__(self, folder: Path, resources: ResourceRequest) -> None:
        super().__init__(folder, resources, run=faulty_job, warm_up=warm_up)
        self.running: dict[str, bool] = {}  # by trial, whether an epoch has ended

    def submit(self, job: Job) -> None:
        self.running[job.job_id] = False
        super().submit(job)

    def poll(self, timeout_s: float) -> list[Event]:
        if self.running == {f"fake-seed{HANGS}": True}:
            SkippingExecutor.skipped_s = 3600 * LIMIT_H
        events = super().poll(timeout_s)
        for event in events:
            if isinstance(event, Finished | Lost):
                del self.running[event.job_id]
            elif isinstance(event, Progress):
                self.running[event.job_id] = True
        return events


def test_each_fault_costs_its_own_trial(
    nth_try: int, tmp_path: Path, tally: Callable, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SkippingExecutor, "skipped_s", 0.0)
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + SkippingExecutor.skipped_s)
    monkeypatch.setattr("sweep.run.loop.time", clock)
    plan = study(SEEDS, trial_time_limit_h=LIMIT_H)
    summary = run(tmp_path, plan, SkippingExecutor)
    output = capfd.readouterr()
    assert output.err == ""
    assert "Traceback" not in output.out
    assert (summary.completed, summary.failed) == (2, 4)
    rows = select_outcomes(read_rows(tmp_path)[0])
    assert not read_rows(tmp_path)[0].duplicated("trial_id").any()
    errors = {name.removeprefix("fake-seed"): row["error"] for name, row in rows[rows["error"].notna()].iterrows()}
    assert errors[str(RAISES)].startswith("ZeroDivisionError: division by zero")
    assert errors[str(DIVERGES)].startswith("the training loss is nan in epoch 2 of 3")
    assert errors[str(HANGS)].startswith("took longer than its limit of 2:00:00 (trial_time_limit_h)")
    assert errors[str(ALWAYS_OUT_OF_MEMORY)].startswith("out of memory with batches of 32 images")
    assert errors[str(ALWAYS_OUT_OF_MEMORY)].endswith("again, although it had a device to itself")
    assert set(errors) == {str(seed) for seed in (RAISES, DIVERGES, HANGS, ALWAYS_OUT_OF_MEMORY)}
    begun = [line.split()[0].removeprefix("fake-seed") for line in starts(tmp_path)]
    assert {seed: begun.count(str(seed)) for seed in SEEDS} == dict.fromkeys(SEEDS, 1) | {
        OUT_OF_MEMORY: 2,
        ALWAYS_OUT_OF_MEMORY: 2,
    }
    assert "retrying with a device to itself" in output.out
    # and all of that is stored: nothing runs again
    before, count = stored(tmp_path), len(starts(tmp_path))
    assert run(tmp_path, plan).failed == 4
    for fault in ("a trial raises", "a trial hangs past its limit", "a loss of NaN", "a trial runs out of memory"):
        tally(fault, **cost(tmp_path, before, count))
