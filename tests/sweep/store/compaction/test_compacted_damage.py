"""Compacted files and manifests that are damaged or lost: no intact row is given up."""

import shutil
from pathlib import Path

import pytest
from synthetic_study import results, save, table_plan

from sweep.plan.plan_file import save_plan
from sweep.report.status import describe, read_status
from sweep.report.write import write_report
from sweep.store import study as store
from sweep.store.compaction import compacted
from sweep.store.compaction.compact import compact
from sweep.store.compaction.manifest import read_manifest
from sweep.store.recovery import quarantine
from sweep.store.row_kinds import EPOCHS, TRIALS

PLAN = table_plan(2, tuple(range(20)))
ROWS = results(PLAN)  # 300
IDS = {row.trial_id for row in ROWS}
READERS = {"trials": store.read_rows, "epochs": store.read_epochs}


@pytest.fixture(scope="module")
def whole_study(tmp_path_factory):
    """A study that is compacted except for two trials."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    save_plan(folder, PLAN)
    save(folder, ROWS[:-2])
    compact(folder)
    save(folder, ROWS[-2:])
    return folder


@pytest.fixture
def study(whole_study, tmp_path):
    return shutil.copytree(whole_study, tmp_path / "study")


def files_of(study, kind):
    """The compacted file and its copy."""
    return read_manifest(study)[kind].paths(study)


def flip(file, place):
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 1
    file.write_bytes(data)


def printed(study):
    return describe(read_status(study))


def ids(study):
    return set(store.read_rows(study).rows["trial_id"])


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda manifest: manifest.write_bytes(manifest.read_bytes()[:-9]),
        lambda manifest: manifest.write_text("[]"),
        lambda manifest: manifest.write_text(manifest.read_text().replace("0.1.parquet", "0.7.parquet", 1)),
        lambda manifest: manifest.write_text(manifest.read_text().replace("trials-", "../trials-", 1)),
        lambda manifest: manifest.write_text('{"other": {"file": "x", "rows": 0, "parts": []}}'),
        lambda manifest: manifest.unlink() or manifest.mkdir(),
        lambda manifest: manifest.unlink() or manifest.symlink_to(manifest),
    ],
    ids=["lost", "torn", "other json", "altered", "leads elsewhere", "another kind", "a folder", "a loop"],
)
def test_a_lost_manifest_is_rebuilt_from_the_compacted_files(study, damage):
    before = read_manifest(study)
    damage(study / "manifest.json")
    rows, damaged = store.read_rows(study)
    assert set(rows["trial_id"]) == IDS
    assert len(rows) == len(ROWS)
    assert damaged == [study / "manifest.json"]
    assert read_status(study).damaged[0] == study / "manifest.json"
    assert read_manifest(study) == before
    compact(study)
    assert len(store.read_rows(study).rows) == len(ROWS)
    assert store.read_rows(study).damaged == []


def test_a_first_compaction_killed_before_its_manifest_is_not_damage(tmp_path):
    save(tmp_path, ROWS[:5])
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*.parquet")}
    compact(tmp_path)
    (tmp_path / "manifest.json").unlink()
    for path, data in before.items():
        path.write_bytes(data)
    rows, damaged = store.read_rows(tmp_path)
    assert (len(rows), damaged) == (5, [])


@pytest.mark.parametrize("which", [0, 1], ids=["file", "copy"])
@pytest.mark.parametrize(
    "damage",
    [
        *(lambda file, place=place: flip(file, place) for place in (0, 0.1, 0.4, 0.6, 0.97, 0.999)),
        lambda file: file.write_bytes(file.read_bytes()[:-100]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_text("no Parquet"),
        Path.unlink,
    ],
    ids=["begin", "0.1", "0.4", "0.6", "footer", "end", "torn", "empty", "text", "gone"],
)
def test_damage_to_a_compacted_file_or_its_copy_costs_nothing(study, damage, which):
    for kind, read in READERS.items():
        frame, damaged = read(study)
        file = files_of(study, kind)[which]
        was_there = [file.name] if damage is not Path.unlink else []
        damage(file)
        again, damaged = read(study)
        assert again.equals(frame)
        assert damaged == ([] if which else [file])  # a copy is not read while the file is whole
        assert read_status(study).damaged == (file,)
        assert "its intact rows and its copy are used, and `famba-sweep compact` writes it again" in printed(study)
        compact(study)
        assert [path.name for path in read_status(study).quarantined][-1:] == was_there
        assert read(study)[0].equals(frame)
        assert read_status(study).damaged == ()
        assert all(place.exists() for place in files_of(study, kind))
        assert not file.exists()
        shutil.rmtree(study / "quarantine", ignore_errors=True)


def test_the_next_run_replaces_a_damaged_compacted_file_from_its_copy(study):
    file, copy = files_of(study, "trials")
    flip(file, 0.5)
    (moved,) = quarantine(study, store.read_rows(study).damaged)
    assert moved == study / "quarantine" / "compacted" / file.name
    assert not copy.exists()
    assert ids(study) == IDS
    assert read_status(study).damaged == ()


@pytest.mark.parametrize("place", [0.1, 0.4, 0.6])
def test_the_same_damage_to_both_files_costs_only_the_damaged_groups(study, place):
    for file in files_of(study, "trials"):
        flip(file, place)
    rows, damaged = store.read_rows(study)
    assert damaged == [*files_of(study, "trials")]
    lost = IDS - set(rows["trial_id"])
    assert 0 < len(lost) <= 100
    assert read_status(study).damaged == (*files_of(study, "trials"),)
    moved = quarantine(study, damaged)
    assert {path.parent for path in moved} == {study / "quarantine" / "compacted"}
    assert read_status(study).quarantined == tuple(sorted(moved))
    assert ids(study) == IDS - lost
    assert store.read_rows(study).damaged == []
    again = next(row for row in ROWS if row.trial_id in lost)
    save(study, [again])  # it may run again
    assert store.read_result(study, again.trial_id, 1)["top1_pct"] == again.top1_pct


def test_different_damage_to_both_files_costs_nothing(study):
    for file, place in zip(files_of(study, "trials"), (0.1, 0.6), strict=True):
        flip(file, place)
    assert ids(study) == IDS
    quarantine(study, store.read_rows(study).damaged)
    assert ids(study) == IDS
    assert read_status(study).damaged == ()


def test_a_footer_that_renames_a_column_is_damage(study):
    for file in files_of(study, "trials"):
        data = file.read_bytes()
        file.write_bytes(data[:-8].replace(b"top1_pct", b"top2_pct") + data[-8:])
    rows, damaged = store.read_rows(study)
    assert damaged == [*files_of(study, "trials")]
    assert set(rows["trial_id"]) == {row.trial_id for row in ROWS[-2:]}


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("no Parquet")])
@pytest.mark.parametrize("kind", READERS)
def test_a_compacted_file_that_is_lost_with_its_copy_costs_only_its_own_rows(study, kind, damage):
    whole = {name: len(read(study)[0]) for name, read in READERS.items()}
    files = files_of(study, kind)
    for file in files:
        damage(file)
    for name, read in READERS.items():
        frame, damaged = read(study)
        assert damaged == ([*files] if name == kind else [])
        assert len(frame) == whole[name] if name != kind else len(frame) < whole[name]
    read_status(study)
    if kind != "trials":
        assert ids(study) == IDS
    compact(study)
    for read in READERS.values():
        assert read(study)[1] == []


def test_a_report_is_written_without_lost_curves(tmp_path):
    save_plan(tmp_path, PLAN)
    save(tmp_path, ROWS[:3])
    compact(tmp_path)
    for file in files_of(tmp_path, "epochs"):
        file.unlink()
    assert "These files could not be read" in write_report(tmp_path).index.read_text()


def test_damage_costs_whole_curves_or_nothing_of_them(study):
    whole = store.read_epochs(study)[0].groupby("trial_id").size()
    for file in files_of(study, "epochs"):
        flip(file, 0.5)
    epochs, damaged = store.read_epochs(study)
    assert damaged == [*files_of(study, "epochs")]
    left = epochs.groupby("trial_id").size()
    assert 0 < len(left) < len(whole)
    assert left.equals(whole[left.index])


@pytest.mark.parametrize("kind", [TRIALS, EPOCHS])
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 100])
def test_row_groups_never_split_a_part_and_keep_all_rows(study, monkeypatch, kind, rows):
    monkeypatch.setattr(compacted, "SMALLEST_GROUP", 3)
    table = compacted.read_compacted(study, kind, read_manifest(study)[kind.name]).table.slice(5, rows)
    groups = list(compacted._split_rows(table, kind))
    assert sum(group.num_rows for group in groups) == rows
    parts = [kind.part_names(group) for group in groups]
    assert sum(map(len, parts)) == len(kind.part_names(table))
    if rows == 100:
        assert len(groups) > 2


def test_a_compacted_file_with_rows_found_nowhere_else_is_kept(study):
    manifest = (study / "manifest.json").read_bytes()
    compact(study)
    newer, _ = files_of(study, "trials")
    (study / "manifest.json").write_bytes(manifest)  # an older one, from a copy
    compact(study)
    assert newer.exists()


def test_a_compacted_file_holds_no_checksum_but_its_own(whole_study):
    for kind in READERS:
        for file in files_of(whole_study, kind):
            assert file.read_bytes().count(b"famba-sweep crc32:") == 1
