"""Compaction: every row once at any moment, whatever reads, is killed, or is damaged meanwhile."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import pandas as pd
import pytest
from fake_training import FakeTrainer, fake_measure, fake_trial, plan_of, run_in_process, starts
from synthetic_study import curve, result, results, save, table_plan

from sweep import store
from sweep.errors import UserError
from sweep.grid.search_spec import EarlyStop
from sweep.store import compacted, parts
from sweep.store.compact import _fold_logs, compact
from sweep.store.driver_lock import lock_study
from sweep.store.kinds import KINDS
from sweep.store.rungs import fold_rungs, read_rung
from sweep.worker.early_stop import goes_on

PLAN = table_plan(2)
ROWS = results(PLAN)


@pytest.fixture
def measurement(tmp_path_factory):
    return fake_measure(tmp_path_factory.mktemp("log") / "measured.txt")(fake_trial(0))


def everything(folder):
    """All that a study's parts say."""
    frames = [read(folder) for read in (store.read_rows, store.read_epochs, store.read_measurements)]
    assert [damaged for _, damaged in frames] == [[], [], []]
    return [frame for frame, _ in frames]


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        pd.testing.assert_frame_equal(one, other)


def loose(folder):
    return sorted(str(path.relative_to(folder)) for kind in KINDS for path in folder.glob(f"{kind.name}/*.parquet"))


def test_the_rows_stay_what_they_are(tmp_path, measurement):
    save(tmp_path, ROWS)
    store.write_measurement(tmp_path, measurement)
    before = everything(tmp_path)
    done = compact(tmp_path)
    assert_same(everything(tmp_path), before)
    assert loose(tmp_path) == []
    assert done.parts == 2 * len(ROWS) + 1
    assert (
        done.sentence
        == "31 parts compacted; compacted/ holds 15 rows of trials, 300 rows of epochs, 1 rows of measurements"
    )
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


def test_one_attempt_is_found_among_many(tmp_path, measurement):
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


def test_an_empty_study(tmp_path):
    store.create_study(tmp_path)
    assert compact(tmp_path).sentence == "0 parts compacted; compacted/ holds nothing"
    assert store.read_rows(tmp_path)[0].empty
    save(tmp_path, ROWS[:1])
    assert compact(tmp_path).rows == {"trials": 1, "epochs": 20}


def test_no_study(tmp_path):
    with pytest.raises(UserError, match="holds no study"):
        compact(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("famba_core.train.Trainer", FakeTrainer)
    monkeypatch.setattr("sweep.worker.measure.measure", fake_measure(tmp_path / "measured.txt"))
    plan = plan_of(*(fake_trial(seed) for seed in range(3)))
    run_in_process(plan, tmp_path, limit=2)
    compact(tmp_path)
    assert run_in_process(plan, tmp_path).completed == 3
    assert starts(tmp_path) == [f"fake-seed{seed} 1" for seed in range(3)]
    assert len((tmp_path / "measured.txt").read_text().splitlines()) == 1, "the measurement was compacted, not lost"
    assert store.read_rows(tmp_path)[0]["measured"].tolist() == ["isolated"] * 3


def test_torn_parts_are_set_aside(tmp_path):
    save(tmp_path, ROWS[:3])
    torn = tmp_path / "trials" / f"{ROWS[1].trial_id}.1.parquet"
    torn.write_bytes(torn.read_bytes()[:-5])
    done = compact(tmp_path)
    assert done.set_aside == (tmp_path / "quarantine" / "trials" / torn.name,)
    assert str(done.set_aside[0]) in done.sentence
    assert set(store.read_rows(tmp_path)[0]["trial_id"]) == {ROWS[0].trial_id, ROWS[2].trial_id}
    save(tmp_path, ROWS[1:2])  # it runs again
    assert len(everything(tmp_path)[0]) == 3


def test_it_refuses_while_a_driver_runs(tmp_path):
    save(tmp_path, ROWS[:2])
    before = loose(tmp_path)
    with lock_study(tmp_path), pytest.raises(UserError, match=rf"another process runs this study: pid {os.getpid()}"):
        compact(tmp_path)
    assert loose(tmp_path) == before


# rungs and logs


def leave_rungs_and_logs(folder, names):
    for epoch in (1, 3):
        for name in names:
            goes_on(folder, "group", name, epoch, float(ord(name)), EarlyStop(min_epochs=1, reduction_factor=3))
    (folder / "logs").mkdir(exist_ok=True)
    for name in names:
        (folder / "logs" / f"{name}.1.txt").write_text(f"the traceback of {name}")


def assert_rungs_and_logs(folder, names):
    for epoch in ("1", "3"):
        arrived = read_rung(folder / "rungs" / "group" / epoch)
        assert {name: (at.value, at.goes_on) for name, at in arrived.items()} == {
            name: (float(ord(name)), True) for name in names
        }
    logs = [log.read_text() for log in (folder / "logs").glob("*.txt")]
    assert all(any(f"the traceback of {name}" in log for log in logs) for name in names)


def test_rungs_and_logs_become_few_files(tmp_path):
    save(tmp_path, ROWS[:2])
    leave_rungs_and_logs(tmp_path, ["a", "b"])
    assert "2 tracebacks are in logs/folded.txt now" in compact(tmp_path).sentence
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


def test_a_study_with_early_stop_and_failures_keeps_less_than_two_files_a_trial(tmp_path, monkeypatch):
    monkeypatch.setattr("famba_core.train.Trainer", FakeTrainer)
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


# readers meanwhile


@pytest.mark.parametrize("before", ["loose", "compacted"])
@pytest.mark.parametrize("moment", ["read_manifest", "part_names", "_read_all"])
def test_a_reader_that_a_compaction_overtakes_sees_every_row_once(tmp_path, monkeypatch, moment, before):
    save(tmp_path, ROWS[:4])
    if before == "compacted":
        compact(tmp_path)
    save(tmp_path, ROWS[4:8])
    expected = everything(tmp_path)
    real, overtaken = getattr(parts, moment), []

    def overtaking(*arguments):
        answer = real(*arguments)
        if not overtaken:
            overtaken.append(True)
            compact(tmp_path)
        return answer

    monkeypatch.setattr(parts, moment, overtaking)
    frame, damaged = store.read_rows(tmp_path)
    assert overtaken
    assert damaged == []
    pd.testing.assert_frame_equal(frame, expected[0])


def test_one_row_is_found_while_it_moves(tmp_path, monkeypatch):
    save(tmp_path, ROWS[:2])
    before = store.read_result(tmp_path, ROWS[0].trial_id, 1)
    real, overtaken = parts.read_manifest, []

    def overtaking(folder):
        answer = real(folder)
        if not overtaken:
            overtaken.append(True)
            compact(tmp_path)
        return answer

    monkeypatch.setattr(parts, "read_manifest", overtaking)
    assert store.read_result(tmp_path, ROWS[0].trial_id, 1) == before
    assert overtaken


def test_readers_in_other_processes_see_every_row_once(tmp_path):
    """They read all the time, while rows are added and compacted; what was seen once is never missing."""
    save(tmp_path, ROWS[:1])
    program = textwrap.dedent("""
        import sys, pathlib
        from sweep import store
        folder, seen, reads = pathlib.Path(sys.argv[1]), set(), 0
        while not (folder / "stop").exists():
            rows, damaged = store.read_rows(folder, ["status"])
            now = rows["trial_id"].tolist()
            assert damaged == [], damaged
            assert len(now) == len(set(now)), "twice"
            assert seen <= set(now), "missing"
            seen, reads = set(now), reads + 1
            if reads == 1:
                print("reading", flush=True)
        print(reads, len(seen), flush=True)
    """)
    readers = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        assert [reader.stdout.readline() for reader in readers] == ["reading\n"] * 2
        for i in range(1, 21):
            save(tmp_path, [replace(ROWS[0], trial_id=f"t{i}")])
            compact(tmp_path)
        (tmp_path / "stop").touch()
        for reader in readers:
            reads, seen = reader.communicate(timeout=60)[0].split()
            assert reader.returncode == 0
            assert int(reads) > 1
            assert 1 <= int(seen) <= 21
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()


KILLED = textwrap.dedent("""
    import os, shutil, signal, sys
    from pathlib import Path
    from sweep.store.compact import _fold_logs, compact

    source, copies = Path(sys.argv[1]), Path(sys.argv[2])
    for point in range(1, 1000):
        copy = copies / str(point)
        shutil.copytree(source, copy)
        child = os.fork()
        if child == 0:
            left = point

            def killing(function):
                def call(*arguments, **options):
                    global left
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return function(*arguments, **options)

                return call

            for name in ("fsync", "replace", "link", "rename", "unlink", "mkdir"):
                setattr(os, name, killing(getattr(os, name)))
            compact(copy)
            os._exit(0)
        _, ended = os.waitpid(child, 0)
        if os.WIFEXITED(ended):
            sys.exit(os.WEXITSTATUS(ended))
        assert os.WTERMSIG(ended) == signal.SIGKILL
""")


def test_killed_at_any_point_it_loses_nothing_and_the_next_one_goes_on(tmp_path):
    """A real kill -9, before every call that changes the folder, one after another."""
    study, copies = tmp_path / "study", tmp_path / "copies"
    save(study, ROWS[:2])
    compact(study)
    save(study, ROWS[2:4])
    torn = study / "trials" / "torn.1.parquet"
    torn.write_bytes(b"PAR1")
    leave_rungs_and_logs(study, ["a", "b"])
    fold_rungs(study)
    _fold_logs(study / "logs")
    leave_rungs_and_logs(study, ["c", "d"])
    rows, epochs = store.read_rows(study)[0], store.read_epochs(study)[0]
    subprocess.run([sys.executable, "-c", KILLED, str(study), str(copies)], check=True)
    killed = sorted(copies.iterdir())
    assert len(killed) > 25
    for copy in killed:
        for expected, read in ((rows, store.read_rows), (epochs, store.read_epochs)):
            frame, damaged = read(copy)
            pd.testing.assert_frame_equal(frame, expected)
            assert set(damaged) <= {copy / "trials" / "torn.1.parquet"}
        assert_rungs_and_logs(copy, ["a", "b", "c", "d"])
        compact(copy)
        assert_same(everything(copy)[:2], [rows, epochs])
        assert loose(copy) == []
        files = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
        assert len([name for name in files if name.startswith("compacted/")]) == 4
        assert not [name for name in files if name.startswith(".manifest")]
        assert [name for name in files if name.startswith("quarantine/")] == ["quarantine/trials/torn.1.parquet"]
        assert_rungs_and_logs(copy, ["a", "b", "c", "d"])
        assert {name for name in files if name.startswith(("rungs", "logs"))} == {
            "rungs/group/1/folded", "rungs/group/3/folded", "logs/folded.txt",
        }  # fmt: skip


def test_a_full_disk_changes_nothing(tmp_path, monkeypatch):
    save(tmp_path, ROWS[:3])
    before = everything(tmp_path)

    def no_room(path, data, **options):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(compacted, "write_atomically", no_room)
    with pytest.raises(UserError, match="cannot be written: No space left"):
        compact(tmp_path)
    assert_same(everything(tmp_path), before)
