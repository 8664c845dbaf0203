"""Compaction: fewer files and the same rows."""

import os
from dataclasses import replace

import pandas as pd
import pytest
from compact_study import PLAN, ROWS, assert_rungs_and_logs, assert_same, everything, leave_rungs_and_logs, loose
from fake_training import FakeTrainer, fake_measure, fake_trial, plan_of, run_in_process, starts
from synthetic_study import curve, result, save

from sweep.errors import UserError
from sweep.grid.search import EarlyStop
from sweep.store import study as store
from sweep.store.compaction.compact import compact
from sweep.store.lock import lock_study


@pytest.fixture
def measurement(tmp_path_factory):
    return fake_measure(tmp_path_factory.mktemp("log") / "measured.txt")(fake_trial(0))


def test_compaction_keeps_the_rows(tmp_path, measurement):
    save(tmp_path, ROWS)
    store.write_measurement(tmp_path, measurement)
    before = everything(tmp_path)
    done = compact(tmp_path)
    assert_same(everything(tmp_path), before)
    assert loose(tmp_path) == [f"measurements/{measurement.measure_id}.parquet"]
    assert done.parts == 2 * len(ROWS)
    assert done.sentence == "30 parts compacted; compacted/ holds 15 rows of trials, 300 rows of epochs"
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) < 2 * len(ROWS)
    columns, _ = store.read_rows(tmp_path, ["status"])
    pd.testing.assert_frame_equal(columns, before[0][["trial_id", "attempt", "status"]])


def test_a_second_compaction_merges_and_a_third_does_nothing(tmp_path):
    save(tmp_path, ROWS[:5])
    compact(tmp_path)
    save(tmp_path, ROWS[5:])
    before = everything(tmp_path)
    assert len(before[0]) == len(ROWS)
    assert compact(tmp_path).parts == 2 * len(ROWS[5:])
    assert_same(everything(tmp_path), before)
    assert len(list((tmp_path / "compacted").iterdir())) == 4
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("compacted/*")}
    assert compact(tmp_path).parts == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("compacted/*")} == files


def test_one_attempt_is_read_from_a_compacted_file_of_many(tmp_path, measurement):
    trial = PLAN.trials[0]
    many = [replace(ROWS[0], trial_id=f"t{i:04}", seed=i) for i in range(60)]
    save(tmp_path, many)
    store.write_measurement(tmp_path, measurement)
    before = [
        (store.read_result(tmp_path, row.trial_id, 1), store.read_curve(tmp_path, row.trial_id, 1)) for row in many[::7]
    ]
    measured = store.read_measurement(tmp_path, measurement.measure_id)
    compact(tmp_path)
    assert [
        (store.read_result(tmp_path, row.trial_id, 1), store.read_curve(tmp_path, row.trial_id, 1)) for row in many[::7]
    ] == before
    assert store.read_measurement(tmp_path, measurement.measure_id) == measured
    assert measured["step_time_ms"] == measurement.step_time_ms
    assert store.read_result(tmp_path, trial.trial_id, 1) is None
    assert store.read_result(tmp_path, "t0000", 2) is None


def test_a_measurement_can_be_replaced_after_a_compaction(tmp_path, measurement):
    save(tmp_path, ROWS[:1])
    for device in ("A100", "H100"):
        store.write_measurement(tmp_path, replace(measurement, device_name=device))
        for _ in range(2):
            compact(tmp_path)
            assert store.read_measurement(tmp_path, measurement.measure_id)["device_name"] == device


def test_an_attempt_in_a_compacted_file_is_not_written_again(tmp_path):
    save(tmp_path, ROWS[:1])
    compact(tmp_path)
    with pytest.raises(FileExistsError, match="written once"):
        store.write_result(tmp_path, result(PLAN.trials[0], top1_pct=1.0), [])
    store.write_result(tmp_path, result(PLAN.trials[0], attempt=2, top1_pct=1.0), [])
    assert store.read_rows(tmp_path)[0]["attempt"].tolist() == [1, 2]


def test_a_curve_without_its_row_stays_replaceable(tmp_path):
    save(tmp_path, ROWS[:2])
    (tmp_path / "trials" / f"{ROWS[0].trial_id}.1.parquet").unlink()
    compact(tmp_path)
    store.write_result(tmp_path, ROWS[0], curve(ROWS[0])[:3])
    assert len(store.read_curve(tmp_path, ROWS[0].trial_id, 1)) == 3
    compact(tmp_path)
    assert len(store.read_curve(tmp_path, ROWS[0].trial_id, 1)) == 3
    assert loose(tmp_path) == []


def test_an_empty_study_is_compacted(tmp_path):
    store.create_study(tmp_path)
    assert compact(tmp_path).sentence == "0 parts compacted; compacted/ holds nothing"
    assert store.read_rows(tmp_path)[0].empty
    save(tmp_path, ROWS[:1])
    assert compact(tmp_path).rows == {"trials": 1, "epochs": 20}


def test_a_folder_without_a_study_is_not_compacted(tmp_path):
    with pytest.raises(UserError, match="holds no study"):
        compact(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_compacted_study_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("famba_core.training.trainer.Trainer", FakeTrainer)
    monkeypatch.setattr("sweep.worker.measure.measure", fake_measure(tmp_path / "measured.txt"))
    plan = plan_of(*(fake_trial(seed) for seed in range(3)))
    run_in_process(plan, tmp_path, limit=2)
    compact(tmp_path)
    assert run_in_process(plan, tmp_path).completed == 3
    assert starts(tmp_path) == [f"fake-seed{seed} 1" for seed in range(3)]
    assert len((tmp_path / "measured.txt").read_text().splitlines()) == 1, "the measurement was not lost"
    assert store.read_rows(tmp_path)[0]["measured"].tolist() == ["isolated"] * 3


def test_torn_parts_are_moved_to_quarantine(tmp_path):
    save(tmp_path, ROWS[:3])
    torn = tmp_path / "trials" / f"{ROWS[1].trial_id}.1.parquet"
    torn.write_bytes(torn.read_bytes()[:-5])
    done = compact(tmp_path)
    assert done.quarantined == (tmp_path / "quarantine" / "trials" / torn.name,)
    assert str(done.quarantined[0]) in done.sentence
    assert set(store.read_rows(tmp_path)[0]["trial_id"]) == {ROWS[0].trial_id, ROWS[2].trial_id}
    save(tmp_path, ROWS[1:2])  # it runs again
    assert len(everything(tmp_path)[0]) == 3


def test_compaction_refuses_while_a_driver_runs(tmp_path):
    save(tmp_path, ROWS[:2])
    before = loose(tmp_path)
    with lock_study(tmp_path), pytest.raises(UserError, match=rf"another process runs this study: pid {os.getpid()}"):
        compact(tmp_path)
    assert loose(tmp_path) == before


# rungs and logs


def test_rungs_and_logs_are_folded(tmp_path):
    save(tmp_path, ROWS[:2])
    leave_rungs_and_logs(tmp_path, ["a", "b"])
    assert "2 tracebacks are now in logs/folded.txt" in compact(tmp_path).sentence
    leave_rungs_and_logs(tmp_path, ["b", "c"])
    (tmp_path / "logs" / "b.1.txt").write_text("another traceback of b")
    assert compact(tmp_path).logs == 2
    assert_rungs_and_logs(tmp_path, ["a", "b", "c"])
    assert (tmp_path / "logs" / "folded.txt").read_text() == (
        "==> a.1.txt <==\nthe traceback of a\n==> b.1.txt <==\nthe traceback of b\n"
        "==> b.1.txt <==\nanother traceback of b\n==> c.1.txt <==\nthe traceback of c\n"
    )
    assert len([path for kind in ("rungs", "logs") for path in (tmp_path / kind).rglob("*") if path.is_file()]) == 3
    assert "tracebacks" not in compact(tmp_path).sentence


def test_a_study_with_early_stop_and_failures_keeps_less_than_one_file_per_trial(tmp_path, monkeypatch):
    monkeypatch.setattr("famba_core.training.trainer.Trainer", FakeTrainer)
    monkeypatch.setattr("sweep.worker.measure.measure", fake_measure(tmp_path / "measured.txt"))
    monkeypatch.setattr("fake_training.FAULTS", {seed: MemoryError() for seed in range(0, 60, 10)})
    stop = EarlyStop(min_epochs=1, reduction_factor=2)
    plan = plan_of(*(replace(fake_trial(seed, epochs=8), early_stop=stop) for seed in range(60)))
    study = tmp_path / "study"
    assert run_in_process(plan, study).failed == 6
    for _ in range(4):
        run_in_process(plan, study, retry_failed=True)
    before, rows = files_of(study), everything(study)
    compact(study)
    assert before > 2 * len(plan.trials)
    assert files_of(study) < len(plan.trials)
    assert_same(everything(study), rows)
    assert run_in_process(plan, study).failed == 6


def files_of(folder):
    return sum(len(names) for _, _, names in os.walk(folder))
