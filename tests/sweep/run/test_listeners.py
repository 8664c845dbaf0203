"""Listeners: what Broadcast passes on, the order of a run's calls, and run.log of driver and worker."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_training import FakeTrainer, epoch_metrics, fake_measure, fake_trial, job_of, plan_of, run_in_process

from sweep.executors.local import LocalExecutor
from sweep.plan.identity import measure_id
from sweep.run.listeners.base import Broadcast, RunListener
from sweep.run.runner import run_plan
from sweep.store.layout import StudyPaths
from sweep.worker.job import run_job

CALLS = [name for name, _ in inspect.getmembers(RunListener, inspect.isfunction) if not name.startswith("_")]


@pytest.fixture(autouse=True)
def fake_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("famba_core.training.trainer.Trainer", FakeTrainer)
    monkeypatch.setattr("sweep.worker.measure.measure", fake_measure(tmp_path / "measured.txt"))


class Recorder(RunListener):
    """A listener that records the calls that it receives, with their arguments."""

    def __init__(self, fail_at: str | None = None) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.fail_at = fail_at

    def __getattribute__(self, name: str) -> Any:
        return partial(self.record, name) if name in CALLS else super().__getattribute__(name)

    def record(self, name: str, *args: Any, **kwargs: Any) -> None:
        self.calls.append((name, args, kwargs))
        if name == self.fail_at:
            raise ZeroDivisionError

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.calls]


def test_broadcast_passes_every_call_on_to_each_listener() -> None:
    job, metrics = job_of(fake_trial(0)), epoch_metrics(1, 3)
    calls: dict[str, Callable[[RunListener], None]] = {
        "run_began": lambda to: to.run_began(["a", "b"], planned=3, capacity=2),
        "measuring_began": lambda to: to.measuring_began(4),
        "measured": lambda to: to.measured(1),
        "measuring_ended": lambda to: to.measuring_ended(),
        "started": lambda to: to.started(job),
        "progress": lambda to: to.progress("a", metrics),
        "lost": lambda to: to.lost("a", "killed"),
        "ended": lambda to: to.ended("a", "completed", None),
        "note": lambda to: to.note("a sentence"),
        "run_ended": lambda to: to.run_ended(),
    }
    assert sorted(calls) == CALLS
    alone, first, second = Recorder(), Recorder(), Recorder()
    for call in calls.values():
        call(alone)
        call(Broadcast([first, second]))
    assert alone.names == list(calls)
    assert first.calls == second.calls == alone.calls


def test_a_listener_without_methods_ignores_every_call() -> None:
    Broadcast([RunListener()]).run_began([], planned=0, capacity=1)
    RunListener().note("a sentence")


def test_a_runs_calls_come_in_the_order_of_its_events(tmp_path: Path) -> None:
    recorder = Recorder()
    plan = plan_of(fake_trial(0, epochs=2), fake_trial(102, epochs=2))
    run_plan(plan, tmp_path, partial(LocalExecutor, run=run_job), listeners=[recorder])
    trial = ["started", "progress", "progress", "ended"]
    assert [name for name in recorder.names if name != "measured"] == [
        "run_began", "measuring_began", "measuring_ended", *trial, "started", "progress", "ended", "run_ended",
    ]  # fmt: skip
    ended = [args[:2] for name, args, _ in recorder.calls if name == "ended"]
    assert ended == [("fake-seed0", "completed"), ("fake-seed102", "failed")]


@pytest.mark.parametrize("fail_at", ["started", "progress", "ended"])
def test_run_ended_is_called_once_after_an_error(tmp_path: Path, fail_at: str) -> None:
    recorder = Recorder(fail_at)
    with pytest.raises(ZeroDivisionError):
        run_plan(plan_of(fake_trial(0)), tmp_path, partial(LocalExecutor, run=run_job), listeners=[recorder])
    assert recorder.names.count("run_ended") == 1
    assert recorder.names[-1] == "run_ended"


def test_run_log_holds_what_driver_and_worker_did(tmp_path: Path) -> None:
    plan = plan_of(fake_trial(0), fake_trial(102))
    run_in_process(plan, tmp_path)
    lines = StudyPaths(tmp_path).run_log.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S+:\d+ [A-Z]+ ", line) for line in lines)
    log = [line.split(" ", 2)[2] for line in lines]
    assert log[0] == "INFO run begins: 2 of 2 trials to train, 1 concurrently"
    assert log[-1] == "INFO run ends"
    assert f"INFO {measure_id(plan.trials[0])}: measuring" in log
    expected = [
        "INFO fake-seed0: submitted, attempt 1, 0 GPUs",
        "INFO fake-seed0: attempt 1 starts after epoch 0",
        *(f"INFO fake-seed0: epoch {epoch}/3" for epoch in (1, 2, 3)),
        "INFO fake-seed0: completed",
    ]
    found = [line.split(",")[0] if ": epoch" in line else line for line in log if "fake-seed0" in line]
    assert found == expected
    assert sum("logs/fake-seed102.1.txt" in line for line in log if "fake-seed102.1: ZeroDivisionError" in line) == 1


def test_run_log_says_where_a_resumed_trial_starts(tmp_path: Path) -> None:
    steps = run_job(job_of(fake_trial(0)), tmp_path)
    next(steps)
    next(steps)
    steps.close()
    run_in_process(plan_of(fake_trial(0)), tmp_path)
    assert "fake-seed0: attempt 1 starts after epoch 2" in StudyPaths(tmp_path).run_log.read_text()


def test_a_run_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    StudyPaths(tmp_path).run_log.symlink_to("/dev/full")
    assert run_in_process(plan_of(fake_trial(0)), tmp_path).completed == 1
