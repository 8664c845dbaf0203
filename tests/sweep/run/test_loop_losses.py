"""The loop of a run where machines leave, and what measuring changes in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_training import epoch_metrics, fake_measure, fake_trial, plan_of, screen_of, with_batch
from puppet import Puppet, complete_first
from small_search import case_of, plan_of_cases

from sweep.executors.base import Event, Finished, Measured, MeasureJob, Progress
from sweep.grid.resources import Pool
from sweep.plan.identity import measure_id
from sweep.run.runner import run_plan
from sweep.store.study import write_measurement


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_machine_that_leaves_is_none_of_the_two_losses_of_a_trial(
    tmp_path: Path, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of one epoch."""
    monkeypatch.setattr("sweep.run.loop.measure_first", lambda *arguments, **options: None)

    def lost(puppet: Puppet, **how: Any) -> list[Event]:
        (trial_id,) = puppet.running
        progress = [Progress(job_id=trial_id, metrics=epoch_metrics(epochs, 3))] if how and epochs else []
        return [*progress, puppet.lose(trial_id, **how)]

    steps: list[Callable[[Puppet], list[Event]]] = [
        lambda puppet: lost(puppet, machine_left=True), lambda puppet: lost(puppet, machine_left=True), lost,
        lambda puppet: lost(puppet, machine_left=True), complete_first,
    ]  # fmt: skip
    plan = plan_of(fake_trial(0))
    executor = Puppet(lambda puppet: steps.pop(0)(puppet), capacity=1)
    assert run_plan(plan, tmp_path, executor, listeners=[screen_of(plan)]).completed == 1


class MeasuringPuppet(Puppet):
    """Takes a measuring job's measurements, one in each poll, with a peak of so many MiB."""

    peak_mib = 30_000.0
    job: MeasureJob | None = None

    def submit(self, job: Any) -> None:
        if isinstance(job, MeasureJob):
            self.job, self.left = job, list(job.trials)
        else:
            super().submit(job)

    def poll(self, timeout_s: float) -> list[Event]:
        if self.job is None:
            return super().poll(timeout_s)
        if not self.left:
            self.job, ended = None, self.job
            return [Finished(job_id=ended.job_id, status="completed", error=None)]
        trial = self.left.pop(0)
        row = fake_measure(self.folder / "measured.txt")(trial)
        write_measurement(self.folder, replace(row, peak_memory_mib=self.peak_mib))
        return [Progress(job_id=self.job.job_id, metrics=Measured(measure_id=measure_id(trial), error=None))]

    def stop(self, job_id: str) -> None:
        self.job = None


def test_a_search_packs_by_what_it_has_just_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.run.loop.predicted_peak_mib", lambda trial: 1000.0)
    cases = [case_of(f"upper{layer}", start_layer=layer) for layer in range(2, 8)]
    plan = plan_of_cases(cases, "random", trials=6)
    on_gpus = tuple(replace(trial, gpus_per_trial=1.0) for trial in plan.trials)
    plan = replace(plan, trials=on_gpus, pool=Pool(gpus_per_trial="pack"))
    executor = MeasuringPuppet(complete_first, capacity=1)
    executor.gpu_memory_mib = 40_000.0
    assert run_plan(plan, tmp_path, executor, listeners=[screen_of(plan)]).completed == len(on_gpus)
    assert {job.resources.gpus for job in executor.submitted} == {1.0}
    assert set(map(len, executor.beside)) == {1}


def test_what_measuring_takes_of_gpus_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("sweep.run.loop.time.monotonic", lambda: now[0])
    executor = MeasuringPuppet(complete_first, capacity=1)
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
