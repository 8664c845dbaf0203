"""The loop of a run where machines leave, and what measuring changes in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_executor import FakeExecutor, complete_first
from fake_training import epoch_metrics, fake_trial, plan_of, screen_of, with_batch
from small_search import case_of, plan_of_cases

from sweep.executors.base import Event, Progress
from sweep.grid.resources import Pool
from sweep.run.runner import run_plan


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_node_that_leaves_does_not_count_as_a_loss_of_a_trial(
    tmp_path: Path, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of one epoch."""
    monkeypatch.setattr("sweep.run.measuring.MeasuringPhase.run", lambda phase, trials: None)

    def lost(executor: FakeExecutor, **how: Any) -> list[Event]:
        (trial_id,) = executor.running
        progress = [Progress(job_id=trial_id, metrics=epoch_metrics(epochs, 3))] if how and epochs else []
        return [*progress, executor.lose(trial_id, **how)]

    steps: list[Callable[[FakeExecutor], list[Event]]] = [
        lambda executor: lost(executor, node_left=True), lambda executor: lost(executor, node_left=True), lost,
        lambda executor: lost(executor, node_left=True), complete_first,
    ]  # fmt: skip
    plan = plan_of(fake_trial(0))
    executor = FakeExecutor(lambda executor: steps.pop(0)(executor), capacity=1)
    assert run_plan(plan, tmp_path, executor, listeners=[screen_of(plan)]).completed == 1


def test_a_search_packs_by_new_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.run.loop.predicted_peak_mib", lambda trial: 1000.0)
    cases = [case_of(f"upper{layer}", start_layer=layer) for layer in range(2, 8)]
    plan = plan_of_cases(cases, "random", trials=6)
    on_gpus = tuple(replace(trial, gpus_per_trial=1.0) for trial in plan.trials)
    plan = replace(plan, trials=on_gpus, pool=Pool(gpus_per_trial="pack"))
    executor = FakeExecutor(complete_first, capacity=1, measured_peak_mib=30_000.0)
    executor.gpu_memory_mib = 40_000.0
    assert run_plan(plan, tmp_path, executor, listeners=[screen_of(plan)]).completed == len(on_gpus)
    assert {job.resources.gpus for job in executor.submitted} == {1.0}
    assert set(map(len, executor.beside)) == {1}


def test_gpu_hours_include_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("sweep.run.loop.time.monotonic", lambda: now[0])
    executor = FakeExecutor(complete_first, capacity=1, measured_peak_mib=30_000.0)
    poll = executor.poll

    def slowly(timeout_s: float) -> list[Event]:
        now[0] += 1000.0
        return poll(timeout_s)

    monkeypatch.setattr(executor, "poll", slowly)
    plan = plan_of(*(with_batch(fake_trial(i, gpus=0.5), 16 + i) for i in range(9)))
    plan = replace(plan, pool=Pool(gpu_hours=1.0))
    summary = run_plan(plan, tmp_path, executor, listeners=[screen_of(plan)])
    assert summary.limit_reached == "the run's limit of 1 GPU-hours is reached (gpu_hours)"
    assert len(list((tmp_path / "measurements").glob("*.parquet"))) == 4
    assert executor.submitted == []
