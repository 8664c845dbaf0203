"""The loop of a run: room, packing, limits, and trials that need a device to themselves."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_executor import FakeExecutor, complete_first
from fake_training import FakeTrainer, epoch_metrics, fake_trial, plan_of, run_in_process, screen_of, with_batch

from sweep.errors import UserError
from sweep.executors.base import Event, Progress
from sweep.grid.resources import Pool
from sweep.plan.model import Plan
from sweep.run.runner import run_plan
from sweep.store.study import read_rows


@pytest.fixture(autouse=True)
def nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.run.measuring.MeasuringPhase.run", lambda phase, trials: None)


def run(plan: Plan, folder: Path, executor: FakeExecutor, **pool: Any) -> Any:
    plan = replace(plan, pool=Pool(**pool))
    return run_plan(plan, folder, executor, listeners=[screen_of(plan)])


def trials(number: int, **resources: Any) -> Plan:
    return plan_of(*(fake_trial(seed, **resources) for seed in range(number)))


def test_max_concurrent_limits_running_trials(tmp_path: Path) -> None:
    executor = FakeExecutor(complete_first, capacity=4)
    assert run(trials(6), tmp_path, executor, max_concurrent=3).completed == 6
    assert max(map(len, executor.beside)) == 3


def test_changing_capacity_is_used_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    room = iter([3, 0, 0, 1, 1, 1, 1, 1])

    def act(executor: FakeExecutor) -> list[Event]:
        executor.capacity = next(room)
        return complete_first(executor)

    executor = FakeExecutor(act, capacity=1)
    assert run(trials(6), tmp_path, executor).completed == 6
    assert list(map(len, executor.beside)) == [1, 1, 2, 3, 1, 1]
    notes = re.findall(r"capacity changed: (.*) \(it was", capsys.readouterr().out)
    assert notes == ["3 concurrent trials", "none, so the run waits", "1 concurrent trials"]


@pytest.mark.parametrize(("memory_mib", "shares"), [(40_000, {0.125}), (4_600, {0.5}), (1_000, {1.0})])
def test_trials_are_packed_by_the_memory_that_they_need(
    tmp_path: Path, memory_mib: float, shares: set[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.run.loop.predicted_peak_mib", lambda trial: 1000.0)
    executor = FakeExecutor(complete_first, capacity=2)
    executor.gpu_memory_mib = memory_mib
    assert run(trials(40, gpus=1), tmp_path, executor, gpus_per_trial="pack").completed == 40
    assert {job.resources.gpus for job in executor.submitted} == shares
    assert max(map(len, executor.beside)) == 2 / max(shares)


def test_memory_that_is_given_counts_before_that_of_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.run.loop.predicted_peak_mib", lambda trial: 1000.0)
    executor = FakeExecutor(complete_first)
    executor.gpu_memory_mib = 40_000
    run(trials(3, gpus=1), tmp_path, executor, gpus_per_trial="pack", gpu_memory_gib=4.5)
    assert {job.resources.gpus for job in executor.submitted} == {0.5}


def test_on_a_gpu_a_trial_without_memory_gets_a_whole_one_and_then_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.run.loop.predicted_peak_mib", lambda trial: 1000.0)

    def act(executor: FakeExecutor) -> list[Event]:
        first = next(iter(executor.running))
        if first == "fake-seed1" or (first == "fake-seed0" and executor.running[first].resources.gpus < 1):
            return [executor.lose(first, out_of_memory=True)]
        return complete_first(executor)

    executor = FakeExecutor(act, capacity=1)
    executor.gpu_memory_mib = 40_000
    summary = run(trials(4, gpus=1), tmp_path, executor, gpus_per_trial="pack")
    assert (summary.completed, summary.failed) == (3, 1)
    shares = {(job.job_id, job.resources.gpus) for job in executor.submitted}
    assert {("fake-seed0", 0.125), ("fake-seed0", 1.0), ("fake-seed1", 1.0), ("fake-seed2", 0.125)} <= shares
    (error,) = read_rows(tmp_path)[0]["error"].dropna()
    assert error == "it was lost again, although it had a device to itself"


def test_an_out_of_memory_retry_on_a_cpu_runs_alone(tmp_path: Path) -> None:
    lost: list[str] = []

    def act(executor: FakeExecutor) -> list[Event]:
        if "fake-seed1" in executor.running and not lost:
            lost.append("fake-seed1")
            return [executor.lose("fake-seed1", out_of_memory=True)]
        return complete_first(executor)

    executor = FakeExecutor(act, capacity=3)
    assert run(trials(6), tmp_path, executor).completed == 6
    again = [i for i, job in enumerate(executor.submitted) if job.job_id == "fake-seed1"][1]
    assert executor.beside[again] == {"fake-seed1"}
    assert "fake-seed1" not in executor.beside[again + 1]


def test_a_trial_may_be_lost_repeatedly_if_it_progresses(tmp_path: Path) -> None:
    epochs = iter([1, 2, 3, 4, 5])

    def act(executor: FakeExecutor) -> list[Event]:
        if (epoch := next(epochs, None)) is None:
            return complete_first(executor)
        return [Progress(job_id="fake-seed0", metrics=epoch_metrics(epoch, 6)), executor.lose("fake-seed0")]

    assert run(trials(1), tmp_path, FakeExecutor(act)).completed == 1


def test_a_trial_that_is_lost_twice_at_one_epoch_has_failed(tmp_path: Path) -> None:
    def act(executor: FakeExecutor) -> list[Event]:
        return [executor.lose("fake-seed0")]

    executor = FakeExecutor(act)
    assert run(trials(1), tmp_path, executor).failed == 1
    assert len(executor.submitted) == 2


def test_a_folder_that_fails_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    def act(executor: FakeExecutor) -> list[Event]:
        return [executor.lose("fake-seed0", folder_failed=True)]

    with pytest.raises(UserError, match=r"cannot be written: it was lost; free space .* the same command continues"):
        run(trials(2), tmp_path, FakeExecutor(act))
    assert read_rows(tmp_path)[0].empty


def test_a_time_limit_lets_running_epochs_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("famba_core.training.trainer.Trainer", FakeTrainer)
    monkeypatch.setattr(FakeTrainer, "epoch_s", 0.1)
    plan = plan_of(*(with_batch(fake_trial(0), batch) for batch in (16, 17, 18, 19)))
    summary = run_in_process(replace(plan, pool=Pool(time_limit_h=0.45 / 3600)), tmp_path)
    assert summary.limit_reached == "the run's limit of 0:00 is reached (time_limit_h)"
    assert (summary.exit_code, summary.completed) == (3, 1)
    assert "Stopped: 1 of 4 trials are stored." in capsys.readouterr().out
    assert len(list(tmp_path.glob("checkpoints/*/last.pt"))) == 1
    assert run_in_process(plan, tmp_path).exit_code == 0


def test_gpu_hours_are_counted_while_workers_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def act(executor: FakeExecutor) -> list[Event]:
        now[0] += 600
        return complete_first(executor)

    def run_for(hours: float, folder: Path) -> Any:
        # each poll takes ten minutes on two halves of a GPU
        return run(trials(6, gpus=0.5), folder, FakeExecutor(act), gpu_hours=hours)

    assert run_for(2, tmp_path / "enough").limit_reached is None
    short = run_for(0.2, tmp_path / "short")
    assert short.limit_reached == "the run's limit of 0.2 GPU-hours is reached (gpu_hours)"
    assert 0 < short.completed < 6


def test_a_run_waits_when_its_last_machine_leaves(tmp_path: Path) -> None:
    polls = iter(range(100))

    def act(executor: FakeExecutor) -> list[Event]:
        match next(polls):
            case 0:  # the news of the machine comes before that of its trial
                executor.capacity = 0
                return []
            case 1:
                return [executor.lose("fake-seed0", node_left=True)]
            case 5:
                executor.capacity = 1
        return complete_first(executor) if executor.running else []

    assert run(trials(3), tmp_path, FakeExecutor(act, capacity=1)).completed == 3
    assert next(polls) > 6


def test_machines_may_leave_as_often_as_they_like(tmp_path: Path) -> None:
    losses = iter(range(4))

    def act(executor: FakeExecutor) -> list[Event]:
        if next(losses, None) is None:
            return complete_first(executor)
        return [executor.lose("fake-seed0", node_left=True)]

    assert run(trials(1), tmp_path, FakeExecutor(act)).completed == 1


@pytest.mark.parametrize("sharing", [2, 3, 6, 7])
def test_only_trials_that_fit_share_a_gpu(tmp_path: Path, sharing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.run.loop.predicted_peak_mib", lambda trial: 1000.0)
    executor = FakeExecutor(complete_first, capacity=1)
    executor.gpu_memory_mib = 2050.0 * sharing / 0.9
    assert run(trials(12, gpus=1), tmp_path, executor, gpus_per_trial="pack").completed == 12
    assert max(map(len, executor.beside)) == sharing


def test_max_concurrent_limits_packed_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.run.loop.predicted_peak_mib", lambda trial: 1000.0)
    executor = FakeExecutor(complete_first, capacity=2)
    executor.gpu_memory_mib = 80_000
    run(trials(12, gpus=1), tmp_path, executor, gpus_per_trial="pack", max_concurrent=5)
    assert max(map(len, executor.beside)) == 5


@pytest.mark.parametrize("places", [4, 2])  # fewer where the machine lacks CPUs
def test_a_whole_gpu_for_one_is_several_places(tmp_path: Path, places: int) -> None:
    lost: list[str] = []

    def act(executor: FakeExecutor) -> list[Event]:
        if not lost:
            lost.append("fake-seed0")
            return [executor.lose("fake-seed0", out_of_memory=True)]
        return complete_first(executor)

    executor = FakeExecutor(act, capacity=places)
    assert run(trials(9, gpus=0.25), tmp_path, executor).completed == 9
    again = next(i for i, job in enumerate(executor.submitted) if job.resources.gpus == 1)
    assert executor.submitted[again].job_id == "fake-seed0"
    assert executor.beside[again] == {"fake-seed0"}, "nothing overtook it, and nothing fits beside it"
    assert max(map(len, executor.beside[again:])) == places


def test_a_limit_that_is_reached_with_the_last_trial_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def act(executor: FakeExecutor) -> list[Event]:
        now[0] += 7200
        return complete_first(executor)

    summary = run(trials(1), tmp_path, FakeExecutor(act), time_limit_h=1)
    assert (summary.exit_code, summary.limit_reached) == (0, None)
