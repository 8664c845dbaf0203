"""The measuring phase: what is measured, when, how often, and what its failures leave alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from fake_training import (
    FakeTrainer,
    fake_measure,
    fake_trial,
    job_of,
    plan_of,
    resources_of,
    run_in_process,
    starts,
    with_batch,
)
from measured_study import batch_trials, batches, measured_in, rows

from sweep.errors import UserError
from sweep.executors.base import Lost
from sweep.executors.local import LocalExecutor
from sweep.plan.identity import measure_id
from sweep.report.status import describe, read_status
from sweep.store.lock import lock_study
from sweep.store.study import read_rows, write_result
from sweep.worker.job import run_job
from sweep.worker.rows import failed_row

HERE = Path(__file__).parents[2] / "support"


@pytest.fixture(autouse=True)
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements and starts of trials go into one log, in their order."""
    monkeypatch.setattr("famba_core.training.trainer.Trainer", FakeTrainer)
    monkeypatch.setattr("sweep.worker.measure.measure", fake_measure(tmp_path / "starts.txt"))


def test_each_schedule_is_measured_once_before_the_first_trial(tmp_path: Path) -> None:
    trials = [fake_trial(0), with_batch(fake_trial(0), 64), fake_trial(1), with_batch(fake_trial(1), 64)]
    assert run_in_process(plan_of(*trials), tmp_path).completed == 4
    log = starts(tmp_path)
    assert log[:2] == [f"measuring {measure_id(trial)}" for trial in trials[:2]]
    assert [line.split()[0] for line in log[2:]] == [trial.trial_id for trial in trials]
    assert batches(tmp_path) == [32, 64]


def test_the_rows_carry_the_isolated_numbers_and_those_of_their_training(tmp_path: Path) -> None:
    run_in_process(plan_of(fake_trial(0, epochs=5), with_batch(fake_trial(1), 64)), tmp_path)
    for name, epochs, batch in (("fake-seed0", 5, 32), ("fake-seed1-batch64", 3, 64)):
        row = rows(tmp_path).loc[name]
        assert row["measured"] == "isolated"
        assert (row["step_time_ms"], row["throughput_img_per_s"]) == (2.0 * batch, 500.0)
        assert row["peak_memory_mib"] == 100.0 + batch
        assert row["isolated_train_time_s"] == pytest.approx(epochs * 4 * 2e-3 * batch)
        assert (row["train_time_s"], row["peak_memory_source"]) == (0.5, "cpu_tensor_bytes")  # as FakeTrainer says


def test_a_measurement_of_another_device_is_not_that_of_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_in_process(plan_of(fake_trial(0)), tmp_path)
    result = FakeTrainer.result
    monkeypatch.setattr(FakeTrainer, "result", lambda trainer: replace(result(trainer), device_name="other"))
    run_in_process(plan_of(fake_trial(0), fake_trial(1)), tmp_path)
    assert rows(tmp_path)["measured"].to_dict() == {"fake-seed0": "isolated", "fake-seed1": "in_training"}
    assert rows(tmp_path).loc["fake-seed1", "step_time_ms"] == 10.0
    assert pd.isna(rows(tmp_path).loc["fake-seed1", "isolated_train_time_s"])


def test_only_trials_to_run_are_measured_and_only_once(tmp_path: Path) -> None:
    plan = plan_of(*(with_batch(fake_trial(seed), 16 + seed) for seed in range(4)))
    write_result(tmp_path, failed_row(job_of(plan.trials[0]), "stored before"), ())
    run_in_process(plan, tmp_path, limit=2)
    assert batches(tmp_path) == [17]
    parts = {part: part.stat().st_mtime_ns for part in tmp_path.glob("measurements/*")}
    run_in_process(plan, tmp_path, retry_failed=True)
    assert batches(tmp_path) == [16, 17, 18, 19]
    assert all(part.stat().st_mtime_ns == before for part, before in parts.items())
    assert sum(line.startswith("measuring") for line in starts(tmp_path)) == 4
    before = starts(tmp_path)
    run_in_process(plan, tmp_path)
    assert starts(tmp_path) == before, "all is stored"


def test_a_row_that_is_stored_already_keeps_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "sweep.run.measuring.MeasuringPhase.run", lambda phase, trials: None
        )  # as before there was a measuring phase
        run_in_process(plan_of(fake_trial(0)), tmp_path)
    run_in_process(plan_of(fake_trial(0), fake_trial(1)), tmp_path)
    assert rows(tmp_path)["measured"].to_dict() == {"fake-seed0": "in_training", "fake-seed1": "isolated"}
    assert rows(tmp_path)["step_time_ms"].to_dict() == {"fake-seed0": 10.0, "fake-seed1": 64.0}


def test_a_failed_measurement_stops_nothing_and_is_tried_again_later(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trials = [with_batch(fake_trial(0), 13), with_batch(fake_trial(1), 16)]
    assert run_in_process(plan_of(*trials), tmp_path).completed == 2
    assert rows(tmp_path)["measured"].tolist() == ["in_training", "isolated"]
    (note,) = (line for line in capsys.readouterr().out.splitlines() if "not measured" in line)
    name = measure_id(trials[0])
    assert note == (
        f"{name}: not measured: out of memory with batches of 13 images (traceback in logs/{name}.measuring.txt); "
        "its trials keep the numbers of their training"
    )
    assert "MemoryError" in (tmp_path / "logs" / f"{name}.measuring.txt").read_text()
    assert run_in_process(plan_of(*trials, with_batch(fake_trial(2), 13)), tmp_path).completed == 3
    assert starts(tmp_path).count(f"measuring {name}") == 2


def test_a_torn_measurement_is_set_aside_and_taken_again(tmp_path: Path) -> None:
    run_in_process(plan_of(fake_trial(0)), tmp_path)
    (part,) = tmp_path.glob("measurements/*")
    part.write_bytes(part.read_bytes()[:-7])
    run_in_process(plan_of(fake_trial(0), fake_trial(1)), tmp_path)
    assert batches(tmp_path) == [32]
    assert (tmp_path / "quarantine" / "measurements" / part.name).exists()
    assert rows(tmp_path)["measured"].tolist() == ["isolated"] * 2


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
        signal.SIGKILL,
    ],
)
def test_a_stopped_phase_resumes_with_the_missing_measurements(tmp_path: Path, number: int) -> None:
    command = [sys.executable, HERE / "fake_training.py", tmp_path, "measuring"]
    first = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        while len(list(tmp_path.glob("measurements/*.parquet"))) < 2:
            assert first.poll() is None
            time.sleep(0.01)
        while not (seen := read_status(tmp_path)).measuring or not seen.measuring.epoch:
            time.sleep(0.01)
        os.kill(first.pid, number)
        output, _ = first.communicate(timeout=20)
    finally:
        first.kill()
        first.communicate()
    # as it was seen from outside while it ran
    assert seen.measuring.epochs == 4
    assert 1 <= seen.measuring.epoch <= 3
    assert f"measuring: {seen.measuring.epoch} of 4 schedules done; training follows" in describe(seen).splitlines()
    assert {trial.state for trial in seen.trials} == {"missing"}
    # as it was left
    assert first.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), output
    assert "Traceback" not in output
    assert read_status(tmp_path).measuring is None
    with lock_study(tmp_path):
        assert read_status(tmp_path).measuring is None, "what an earlier driver left says nothing of this one"
    assert read_rows(tmp_path)[0].empty
    parts = {part: part.stat().st_mtime_ns for part in tmp_path.glob("measurements/*.parquet")}
    assert 2 <= len(parts) < 4

    again = subprocess.run(command, text=True, capture_output=True, check=False, timeout=60)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"measuring {4 - len(parts)} schedule" in again.stdout
    assert all(part.stat().st_mtime_ns == before for part, before in parts.items())
    assert batches(tmp_path) == [16, 17, 18, 19]
    assert rows(tmp_path)["measured"].tolist() == ["isolated"] * 4
    assert len((tmp_path / "measured.txt").read_text().splitlines()) in (4, 5)  # one was perhaps interrupted


def test_a_phase_that_should_end_stops_its_worker_and_keeps_stored_rows(tmp_path: Path) -> None:
    trials = batch_trials(16, 17, 18)
    executor = LocalExecutor(tmp_path, resources_of(*trials), run=run_job)
    measured_in(tmp_path, trials, executor, should_end=lambda: bool(list(tmp_path.glob("measurements/*.parquet"))))
    assert batches(tmp_path) == [16]
    assert [type(event) for event in executor.poll(0)] == [Lost]
    assert not (tmp_path / "measurements" / "progress.json").exists()
    measured_in(tmp_path, trials, executor)
    assert batches(tmp_path) == [16, 17, 18]


def test_measurements_of_another_device_are_taken_again(tmp_path: Path) -> None:
    trials = batch_trials(16, 17)
    executor = LocalExecutor(tmp_path, resources_of(*trials), run=run_job)
    measured_in(tmp_path, trials, executor)
    assert len(starts(tmp_path)) == 2
    measured_in(tmp_path, trials, executor, is_device=lambda name: name == "fake")
    assert len(starts(tmp_path)) == 2
    measured_in(tmp_path, trials, executor, is_device=lambda name: name == "another")
    assert len(starts(tmp_path)) == 4


def test_ids_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each measurement all that wait were looked through, each with its id made anew."""
    trials = batch_trials(*range(16, 36))
    calls = []
    monkeypatch.setattr("sweep.run.measuring.measure_id", lambda trial: calls.append(trial) or measure_id(trial))
    measured_in(tmp_path, trials, LocalExecutor(tmp_path, resources_of(*trials), run=run_job))
    assert len(batches(tmp_path)) == 20
    assert len(calls) == 20


def test_a_full_disk_under_the_phase_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("sweep.store.progress.write_atomically", full)
    trials = batch_trials(16)
    with pytest.raises(UserError, match="cannot be written: No space left"):
        measured_in(tmp_path, trials, LocalExecutor(tmp_path, resources_of(*trials), run=run_job))
