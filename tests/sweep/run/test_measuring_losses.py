"""The measuring phase where workers die or hang, and machines leave."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest
from fake_training import FakeTrainer, fake_measure, fake_trial, plan_of, resources_of, screen_of, with_batch
from measured_study import batch_trials, batches, measured_in, rows

from sweep.executors.base import Event, Job, Lost, MeasureJob
from sweep.executors.local import LocalExecutor
from sweep.plan.identity import measure_id
from sweep.run.runner import run_plan
from sweep.store.study import read_measurements
from sweep.worker.job import run_job


@pytest.fixture(autouse=True)
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("famba_core.training.trainer.Trainer", FakeTrainer)
    monkeypatch.setattr("sweep.worker.measure.measure", fake_measure(tmp_path / "starts.txt"))


class DyingExecutor(LocalExecutor):
    """Its worker dies when it begins to measure one of the batch sizes, or when it has stored that measurement."""

    deadly: tuple[int, ...] = ()
    stored_first = False

    def submit(self, job: Job) -> None:
        self.job = job
        super().submit(job)

    def poll(self, timeout_s: float) -> list[Event]:
        if isinstance(self.job, MeasureJob) and self._next_batch() in self.deadly:
            if self.stored_first:
                super().poll(timeout_s)
            self.close()
            return [Lost(job_id=self.job.job_id, reason="its worker process died")]
        return super().poll(timeout_s)

    def _next_batch(self) -> int | None:
        assert isinstance(self.job, MeasureJob)
        stored = set(read_measurements(self._folder)[0]["measure_id"])
        left = [trial.train.batch_size for trial in self.job.trials if measure_id(trial) not in stored]
        return left[0] if left else None


@pytest.mark.parametrize(
    ("deadly", "stored_first", "measured", "notes"),
    [
        ((17,), False, [16, 18, 19], ["vim_nano-13to24-12tokens"]),
        ((17,), True, [16, 17, 19], ["vim_nano-13to24-12tokens"]),
        ((17, 18), False, [16], ["vim_nano-13to24-12tokens", "vim_nano-13to24-12tokens", "1 schedule more"]),
        ((19,), False, [16, 17, 18], ["vim_nano-13to24-12tokens"]),
        ((19,), True, [16, 17, 18, 19], []),
    ],
)
def test_a_dead_worker_loses_one_measurement_and_the_second_ends_the_phase(
    deadly: tuple[int, ...],
    stored_first: bool,
    measured: list[int],
    notes: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(DyingExecutor, "deadly", deadly)
    monkeypatch.setattr(DyingExecutor, "stored_first", stored_first)
    plan = plan_of(*(with_batch(fake_trial(seed), 16 + seed) for seed in range(4)))
    assert run_plan(plan, tmp_path, partial(DyingExecutor, run=run_job), listeners=[screen_of(plan)]).completed == 4
    assert batches(tmp_path) == measured
    assert rows(tmp_path).query("measured == 'isolated'")["batch_size"].tolist() == measured
    found = [line for line in capsys.readouterr().out.splitlines() if "not measured" in line]
    assert [line.startswith(note) for line, note in zip(found, notes, strict=True)] == [True] * len(notes)


class HangingExecutor(LocalExecutor):
    """Its worker takes forever over one batch size."""

    def poll(self, timeout_s: float) -> list[Event]:
        if not self._events and self._steps is not None:
            assert isinstance(self.job, MeasureJob)
            stored = set(read_measurements(self._folder)[0]["measure_id"])
            left = [trial.train.batch_size for trial in self.job.trials if measure_id(trial) not in stored]
            if left[:1] == [17]:
                time.sleep(0.01)
                return []
        return super().poll(timeout_s)

    def submit(self, job: Job) -> None:
        self.job = job
        super().submit(job)


def test_a_measurement_over_its_time_limit_is_dropped_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trials = batch_trials(16, 17, 18)
    measured_in(tmp_path, trials, HangingExecutor(tmp_path, resources_of(*trials), run=run_job), time_limit_s=0.3)
    assert batches(tmp_path) == [16, 18]
    (note,) = (line for line in capsys.readouterr().out.splitlines() if "not measured" in line)
    assert note.startswith(f"{measure_id(trials[1])}: not measured: took longer than ")


class LeavingExecutor(LocalExecutor):
    """Its machine leaves four times, with one measurement stored in between."""

    left = 0

    def submit(self, job: Job) -> None:
        self.job = job
        super().submit(job)

    def poll(self, timeout_s: float) -> list[Event]:
        if not self._events and self.left < 4 and (self.left != 2 or batches(self._folder)):
            self.left += 1
            self.close()
            return [Lost(job_id=self.job.job_id, reason="its machine left", node_left=True)]
        return super().poll(timeout_s)


def test_a_node_that_leaves_loses_no_measurement(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trials = batch_trials(16, 17, 18)
    executor = LeavingExecutor(tmp_path, resources_of(*trials), run=run_job)
    measured_in(tmp_path, trials, executor)
    assert executor.left == 4
    assert batches(tmp_path) == [16, 17, 18]
    assert len((tmp_path / "starts.txt").read_text().splitlines()) == 3
    assert "not measured" not in capsys.readouterr().out
