"""Files that are damaged, lost, or cannot be read for a moment: nothing that is whole is given up for them."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from fake_training import FakeTrainer, fake_measure, fake_trial, plan_of, run_in_process, starts
from synthetic_study import results, save, table_plan

from sweep import store
from sweep.errors import UserError
from sweep.plan import plan_to_json
from sweep.report import write_report
from sweep.status import study_status
from sweep.store import compacted, parts
from sweep.store.compact import compact
from sweep.store.driver_lock import driver_of
from sweep.store.kinds import EPOCHS, TRIALS
from sweep.store.manifest import read_manifest
from sweep.store.quarantine import quarantine

PLAN = table_plan(2, tuple(range(20)))
ROWS = results(PLAN)  # 300
IDS = {row.trial_id for row in ROWS}
READERS = {"trials": store.read_rows, "epochs": store.read_epochs, "measurements": store.read_measurements}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """All of it compacted, but for two trials."""
    monkeypatch.setattr(compacted, "ROW_GROUPS", 3)
    store.save_plan(tmp_path, plan_to_json(PLAN))
    save(tmp_path, ROWS[:-2])
    store.write_measurement(tmp_path, fake_measure(tmp_path / "measured.txt")(fake_trial(0)))
    compact(tmp_path)
    save(tmp_path, ROWS[-2:])
    return tmp_path


def file_of(study, kind):
    (file,) = (study / "compacted").glob(f"{kind}-*")
    return file


def flip(file, place):
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 1
    file.write_bytes(data)


def ids(study):
    return set(store.read_rows(study).rows["trial_id"])


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda manifest: manifest.write_bytes(manifest.read_bytes()[:-9]),
        lambda manifest: manifest.write_text("[]"),
        lambda manifest: manifest.write_text(manifest.read_text().replace("trials-", "../trials-", 1)),
        lambda manifest: manifest.write_text('{"other": {"file": "x", "rows": 0, "parts": []}}'),
        lambda manifest: manifest.unlink() or manifest.mkdir(),
    ],
    ids=["lost", "torn", "other json", "leads elsewhere", "another kind", "a folder"],
)
def test_a_manifest_that_is_lost_is_made_again_from_what_it_stood_for(study, damage):
    before = read_manifest(study)
    damage(study / "manifest.json")
    rows, damaged = store.read_rows(study)
    assert set(rows["trial_id"]) == IDS
    assert len(rows) == len(ROWS)
    assert damaged == [study / "manifest.json"]
    assert study_status(study).damaged[0] == study / "manifest.json"
    assert read_manifest(study) == before
    compact(study)
    assert len(store.read_rows(study).rows) == len(ROWS)
    assert store.read_rows(study).damaged == []


def test_a_first_compaction_that_was_killed_before_its_manifest_is_no_damage(tmp_path):
    save(tmp_path, ROWS[:5])
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*.parquet")}
    compact(tmp_path)
    (tmp_path / "manifest.json").unlink()
    for path, data in before.items():
        path.write_bytes(data)
    rows, damaged = store.read_rows(tmp_path)
    assert (len(rows), damaged) == (5, [])


@pytest.mark.parametrize("place", [0.1, 0.4, 0.6])
def test_damage_to_a_compacted_file_costs_the_rows_around_it(study, place):
    flip(file_of(study, "trials"), place)
    rows, damaged = store.read_rows(study)
    assert damaged == [file_of(study, "trials")]
    lost = IDS - set(rows["trial_id"])
    assert 0 < len(lost) <= 100
    assert study_status(study).damaged == (file_of(study, "trials"),)
    (moved,) = quarantine(study, damaged)
    assert moved.parent == study / "quarantine" / "compacted"
    assert study_status(study).set_aside == (moved,)
    assert ids(study) == IDS - lost
    assert store.read_rows(study).damaged == []
    again = next(row for row in ROWS if row.trial_id in lost)
    save(study, [again])  # it may run again
    assert store.read_result(study, again.trial_id, 1)["top1_pct"] == again.top1_pct


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("no Parquet")])
@pytest.mark.parametrize("kind", ["trials", "epochs", "measurements"])
def test_a_compacted_file_that_is_gone_takes_nothing_else_with_it(study, kind, damage):
    whole = {name: len(read(study)[0]) for name, read in READERS.items()}
    file = file_of(study, kind)
    damage(file)
    for name, read in READERS.items():
        frame, damaged = read(study)
        assert damaged == ([file] if name == kind else [])
        assert len(frame) == whole[name] if name != kind else len(frame) < whole[name]
    study_status(study)
    if kind != "trials":
        assert ids(study) == IDS
    write_report(study)
    compact(study)
    for read in READERS.values():
        assert read(study)[1] == []


def test_a_curve_is_there_whole_or_not_at_all(study):
    whole = store.read_epochs(study)[0].groupby("trial_id").size()
    flip(file_of(study, "epochs"), 0.5)
    epochs, damaged = store.read_epochs(study)
    assert damaged == [file_of(study, "epochs")]
    left = epochs.groupby("trial_id").size()
    assert 0 < len(left) < len(whole)
    assert left.equals(whole[left.index])
    groups = [1, None, 2]
    schema = EPOCHS.schema
    made = [
        None if n is None else schema.empty_table() if n == 0 else compacted.read_compacted(
            study, EPOCHS, read_manifest(study)["epochs"])[0].slice(0, n) for n in groups
    ]  # fmt: skip
    assert all(table.num_rows == 0 for table in compacted._without_torn_parts(made, EPOCHS))


def test_a_file_of_rows_that_nothing_else_has_is_not_removed(study):
    manifest = (study / "manifest.json").read_bytes()
    compact(study)
    newer = file_of(study, "trials")
    (study / "manifest.json").write_bytes(manifest)  # an older one, from a copy
    compact(study)
    assert newer.exists()


# what cannot be read for a moment


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EMFILE])
def test_what_cannot_be_read_now_is_not_taken_for_missing(tmp_path, monkeypatch, number):
    monkeypatch.setattr("famba_core.train.Trainer", FakeTrainer)
    monkeypatch.setattr("sweep.worker.measure.measure", fake_measure(tmp_path / "measured.txt"))
    plan = plan_of(*map(fake_trial, range(3)))
    run_in_process(plan, tmp_path)
    part = tmp_path / "trials" / "fake-seed1.1.parquet"
    real, times = Path.read_bytes, []

    def once(path):
        if path == part and not times:
            times.append(path)
            raise OSError(number, os.strerror(number))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", once)
    with pytest.raises(UserError, match=r"trials/fake-seed1.1.parquet: is not damaged, .*run the command again"):
        run_in_process(plan, tmp_path)
    assert part.exists()
    assert run_in_process(plan, tmp_path).completed == 3
    assert len(starts(tmp_path)) == 3


def test_what_stays_unreadable_is_listed_and_left_to_the_user(tmp_path, monkeypatch):
    save(tmp_path, ROWS[:3])
    part = tmp_path / "trials" / f"{ROWS[0].trial_id}.1.parquet"
    real = Path.read_bytes

    def broken(path):
        if path == part:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", broken)
    rows, damaged = store.read_rows(tmp_path)
    assert (len(rows), damaged) == (2, [part])
    with pytest.raises(UserError, match=r"Input/output error; nothing is set aside.*move it away"):
        quarantine(tmp_path, damaged)


# a reader of many parts, killed


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_killed_while_it_reads_leaves_neither_lock_nor_process(tmp_path, number):
    save(tmp_path, ROWS[:6])
    program = textwrap.dedent("""
        import pathlib, sys, time
        from sweep import store
        from sweep.store import parts
        from sweep.store.driver_lock import lock_study
        folder, real = pathlib.Path(sys.argv[1]), parts.read_loose
        parts.WHOLE_UP_TO = 2
        def slowly(*arguments):
            (folder / "reading").touch()
            time.sleep(0.5)
            return real(*arguments)
        parts.read_loose = slowly
        with lock_study(folder):
            store.read_rows(folder)
    """)
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], start_new_session=True)
    while not (tmp_path / "reading").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    process.wait()
    assert driver_of(tmp_path) is None
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a process of it is still there")


def test_the_share_of_a_process_that_was_killed_is_read_all_the_same(tmp_path, monkeypatch):
    save(tmp_path, ROWS[:8])
    here, real = os.getpid(), parts.read_loose

    def dies(*arguments):
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    monkeypatch.setattr(parts, "read_loose", dies)
    monkeypatch.setattr(parts, "WHOLE_UP_TO", 2)
    rows, damaged = store.read_rows(tmp_path)
    assert (len(rows), damaged) == (8, [])
    assert set(TRIALS.part_names(parts.read_parts(tmp_path, TRIALS)[0])) == parts.all_parts(tmp_path, TRIALS)
