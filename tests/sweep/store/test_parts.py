"""Reading parts: some of the columns, one attempt, damaged parts, and parts that move concurrently."""

import contextlib
import os
import shutil
from dataclasses import asdict, replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_study import curve, results, save, table_plan

from famba_core.arrow import arrow_schema
from sweep.files.checksum import CorruptFile
from sweep.schema import ResultRow
from sweep.store import parts
from sweep.store import study as store
from sweep.store.compaction import manifest
from sweep.store.compaction.compact import compact
from sweep.store.row_kinds import EPOCHS, TRIALS

ROWS = results(table_plan(2))


def test_newest_reads_the_last_written_loose_parts_only(tmp_path):
    save(tmp_path, ROWS[:1])
    compact(tmp_path)
    save(tmp_path, ROWS[1:6])
    for age, row in enumerate(ROWS[1:6]):
        os.utime(tmp_path / "trials" / f"{row.trial_id}.1.parquet", (0, 1000 - age))
    for newest, found in ((2, ROWS[:3]), (5, ROWS[:6]), (9, ROWS[:6]), (None, ROWS[:6])):
        rows, _ = store.read_rows(tmp_path, ["status"], newest=newest)
        assert set(rows["trial_id"]) == {row.trial_id for row in found}


def test_some_columns_equal_those_of_a_full_read(tmp_path):
    save(tmp_path, ROWS)
    everything, _ = store.read_rows(tmp_path)
    some, damaged = store.read_rows(tmp_path, ("error", "schedule", "status", "started_at"))
    assert damaged == []
    assert list(some) == ["trial_id", "attempt", "status", "error", "schedule", "started_at"]
    pd.testing.assert_frame_equal(some, everything[list(some)])
    pd.testing.assert_frame_equal(store.select_outcomes(some), store.select_outcomes(everything)[list(some)[1:]])


@pytest.mark.parametrize("cut", [1, 9, 4000])
def test_a_torn_part_is_found_whichever_columns_are_read(tmp_path, cut):
    save(tmp_path, ROWS)
    torn = tmp_path / "trials" / f"{ROWS[3].trial_id}.1.parquet"
    torn.write_bytes(torn.read_bytes()[:-cut])
    assert store.read_rows(tmp_path, ["status"])[1] == [torn]


def test_a_flipped_bit_in_a_read_column_is_found(tmp_path):
    save(tmp_path, ROWS)
    part = tmp_path / "trials" / f"{ROWS[3].trial_id}.1.parquet"
    data = bytearray(part.read_bytes())
    data[data.index(b"completed") + 2] ^= 1
    part.write_bytes(data)
    assert store.read_rows(tmp_path, ["status"])[1] == [part]


def test_no_flipped_bit_changes_the_rows_of_a_part(tmp_path):
    """Not even in its footer, which names the columns, or in its checksum."""
    save(tmp_path, ROWS[:1])
    for kind in (TRIALS, EPOCHS):
        part = tmp_path / kind.name / f"{ROWS[0].trial_id}.1.parquet"
        whole, table = part.read_bytes(), parts.read_loose_part(part, kind, kind.schema)
        for bit in range(0, 8 * len(whole), 59):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            part.write_bytes(flipped)
            with contextlib.suppress(CorruptFile):
                assert parts.read_loose_part(part, kind, kind.schema).equals(table)
        part.write_bytes(whole)


def test_a_renamed_column_is_damage_and_not_a_missing_number(tmp_path):
    save(tmp_path, ROWS[:1])
    part = tmp_path / "trials" / f"{ROWS[0].trial_id}.1.parquet"
    part.write_bytes(part.read_bytes().replace(b"top1_pct", b"top2_pct"))
    assert store.read_rows(tmp_path)[1] == [part]


def test_a_part_under_another_name_is_not_a_second_row(tmp_path):
    save(tmp_path, ROWS[:2])
    for kind in ("trials", "epochs"):
        shutil.copy(*(tmp_path / kind / f"{ROWS[0].trial_id}.{attempt}.parquet" for attempt in (1, 2)))
    copy = f"{ROWS[0].trial_id}.2.parquet"
    rows, damaged = store.read_rows(tmp_path)
    assert (len(rows), damaged) == (2, [tmp_path / "trials" / copy])
    assert store.read_epochs(tmp_path)[1] == [tmp_path / "epochs" / copy]
    assert store.read_result(tmp_path, ROWS[0].trial_id, 2) is None


def test_links_pipes_and_folders_are_damage_and_do_not_block(tmp_path):
    save(tmp_path, ROWS[:1])
    link, pipe, folder = (tmp_path / "trials" / f"{name}.1.parquet" for name in ("a", "b", "c"))
    link.symlink_to(tmp_path / "trials" / f"{ROWS[0].trial_id}.1.parquet")
    os.mkfifo(pipe)
    folder.mkdir()
    rows, damaged = store.read_rows(tmp_path)
    assert (len(rows), damaged) == (1, [link, pipe, folder])


def test_a_result_without_a_row_is_damage_but_an_empty_curve_is_not(tmp_path):
    store.write_result(tmp_path, ROWS[0], ())
    assert store.read_epochs(tmp_path)[1] == []
    part = tmp_path / "trials" / f"{ROWS[0].trial_id}.1.parquet"
    pq.write_table(arrow_schema(ResultRow).empty_table(), part)
    assert store.read_rows(tmp_path)[1] == [part]


def test_one_attempt_is_read_as_it_was_written(tmp_path):
    save(tmp_path, [ROWS[0], replace(ROWS[0], attempt=2, top1_pct=1.0)])
    assert store.read_result(tmp_path, ROWS[0].trial_id, 1) == asdict(ROWS[0])
    assert store.read_result(tmp_path, ROWS[0].trial_id, 2)["top1_pct"] == 1.0
    assert store.read_result(tmp_path, ROWS[0].trial_id, 3) is None
    assert store.read_curve(tmp_path, ROWS[0].trial_id, 1) == [asdict(epoch) for epoch in curve(ROWS[0])]
    assert store.read_measurement(tmp_path, "none") is None
    part = tmp_path / "trials" / f"{ROWS[0].trial_id}.1.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    assert store.read_result(tmp_path, ROWS[0].trial_id, 1) is None


def test_a_part_that_is_moved_while_others_are_read_leaves_the_others(tmp_path, monkeypatch):
    save(tmp_path, ROWS[:4])
    part = tmp_path / "trials" / f"{ROWS[1].trial_id}.1.parquet"
    real, moved = parts.list_loose_parts, []

    def then_it_moves(folder, kind):
        names = real(folder, kind)
        if not moved:
            moved.append(part.rename(folder / part.name))
        return names

    monkeypatch.setattr(parts, "list_loose_parts", then_it_moves)
    rows, damaged = store.read_rows(tmp_path)
    assert moved
    assert damaged == []
    assert set(rows["trial_id"]) == {ROWS[i].trial_id for i in (0, 2, 3)}


def test_a_dangling_link_is_damage_and_does_not_block(tmp_path):
    save(tmp_path, ROWS[:1])
    link = tmp_path / "trials" / "x.1.parquet"
    link.symlink_to(tmp_path / "nowhere")
    rows, damaged = store.read_rows(tmp_path)
    assert (len(rows), damaged) == (1, [link])


@pytest.mark.parametrize("missing", ["trial_id", "attempt"])
def test_a_row_without_its_key_is_damage(tmp_path, missing):
    save(tmp_path, ROWS[:1])
    schema = pa.schema([field.with_nullable(True) for field in arrow_schema(ResultRow)])
    part = tmp_path / "trials" / "x.1.parquet"
    pq.write_table(pa.Table.from_pylist([asdict(ROWS[1]) | {missing: None}], schema=schema), part)
    assert store.read_rows(tmp_path)[1] == [part]


def test_parts_of_the_first_version_are_read(tmp_path):
    """They also hold the Arrow schema."""
    save(tmp_path, ROWS[:1])
    schema = arrow_schema(ResultRow)
    old = tmp_path / "trials" / f"{ROWS[1].trial_id}.1.parquet"
    pq.write_table(pa.Table.from_pylist([asdict(ROWS[1])], schema=schema), old)
    rows, damaged = store.read_rows(tmp_path)
    assert damaged == []
    assert rows["schedule"].tolist() == [row.schedule for row in sorted(ROWS[:2], key=lambda row: row.trial_id)]


def test_a_manifest_is_decoded_again_only_when_it_has_changed(tmp_path, monkeypatch):
    save(tmp_path, ROWS[:4])
    compact(tmp_path)
    real, decoded = manifest._decode, []
    monkeypatch.setattr(manifest, "_decode", lambda *arguments: decoded.append(True) or real(*arguments))
    for row in ROWS[:4]:
        assert store.read_result(tmp_path, row.trial_id, 1) == asdict(row)
    store.write_result(tmp_path, ROWS[4], curve(ROWS[4]))
    assert len(decoded) <= 1
    before = len(decoded)
    compact(tmp_path)
    assert store.read_result(tmp_path, ROWS[4].trial_id, 1) == asdict(ROWS[4])
    assert len(decoded) == before + 1


def test_two_processes_read_the_same_rows_as_one(tmp_path, monkeypatch):
    save(tmp_path, ROWS)
    torn = sorted((tmp_path / "trials").glob("*.parquet"))[3]
    torn.write_bytes(torn.read_bytes()[:-5])
    alone, damaged = store.read_rows(tmp_path, ("status", "error"))
    assert damaged == [torn]
    monkeypatch.setattr(parts, "READ_WHOLE_UP_TO", 2)
    together, damaged = store.read_rows(tmp_path, ("status", "error"))
    assert damaged == [torn]
    pd.testing.assert_frame_equal(together, alone)
