"""Writing and reading rows, also under real faults: torn files, flipped bits, killed writers."""

import signal
import struct
import subprocess
import sys
import textwrap
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_study import curve, files, result, results, save, table_plan

import sweep
from famba_core.arrow import arrow_schema
from sweep.plan.plan_file import read_plan, save_plan
from sweep.schema import EpochRow, ResultRow
from sweep.store import study as store
from sweep.store.recovery import quarantine

PLAN = table_plan(2)
ROWS = results(PLAN)


def test_rows_are_read_as_they_were_written(tmp_path):
    frame, damaged = store.read_rows(save(tmp_path, ROWS))
    assert damaged == []
    by_trial = {row.trial_id: row for row in ROWS}
    for line in frame.to_dict("records"):
        for name, value in asdict(by_trial[line["trial_id"]]).items():
            assert pd.isna(line[name]) if value is None else line[name] == value, name


def test_columns_and_dtypes_do_not_depend_on_the_rows(tmp_path):
    empty, _ = store.read_rows(save(tmp_path / "empty", []))
    full, _ = store.read_rows(save(tmp_path / "full", ROWS))
    assert len(empty) == 0
    assert list(empty.columns) == arrow_schema(ResultRow).names
    assert full.dtypes.equals(empty.dtypes)
    assert full["start_layer"].dtype == "Int64"
    assert full["top1_pct"].dtype == "float64"
    assert str(full["started_at"].dt.tz) == "UTC"


def test_attempts_are_in_numerical_order(tmp_path):
    save(tmp_path, [result(PLAN.trials[0], attempt=attempt) for attempt in (10, 2, 1)])
    assert list(store.read_rows(tmp_path)[0]["attempt"]) == [1, 2, 10]
    assert list(store.read_epochs(tmp_path)[0]["attempt"].unique()) == [1, 2, 10]


def test_the_curve_is_stored_with_the_row(tmp_path):
    save(tmp_path, ROWS[:1])
    epochs = sweep.load_epochs(tmp_path).drop(columns=["planned", "folder"])
    assert [asdict(row) for row in curve(ROWS[0])] == [
        {name: None if pd.isna(value) else value for name, value in line.items()} for line in epochs.to_dict("records")
    ]


def test_an_attempt_without_epochs_has_an_empty_curve(tmp_path):
    store.create_study(tmp_path)
    store.write_result(tmp_path, result(PLAN.trials[0], status="failed", error="no data"), [])
    assert list(sweep.load_epochs(tmp_path).columns) == [*arrow_schema(EpochRow).names, "planned", "folder"]


def test_no_part_is_ever_replaced(tmp_path):
    save(tmp_path, ROWS[:1])
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises(FileExistsError, match="written once"):
        store.write_result(tmp_path, result(PLAN.trials[0], top1_pct=1.0), [])
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_of_two_writers_of_one_attempt_one_fails_at_the_last_step(tmp_path, monkeypatch):
    save(tmp_path, ROWS[:1])
    part = tmp_path / "trials" / f"{ROWS[0].trial_id}.1.parquet"
    before = part.read_bytes()
    monkeypatch.setattr("pathlib.Path.exists", lambda path: False)  # as if both had looked before either wrote
    with pytest.raises(FileExistsError):
        store.write_result(tmp_path, result(PLAN.trials[0], top1_pct=1.0), [])
    assert part.read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"not parquet",
    ],
    ids=["empty", "half", "last byte", "other file"],
)
def test_a_damaged_part_costs_only_its_own_row(tmp_path, damage):
    save(tmp_path, ROWS)
    part = tmp_path / "trials" / f"{ROWS[3].trial_id}.1.parquet"
    part.write_bytes(damage(part.read_bytes()))
    frame, damaged = store.read_rows(tmp_path)
    assert damaged == [part]
    assert set(frame["trial_id"]) == {row.trial_id for row in ROWS} - {ROWS[3].trial_id}
    with pytest.warns(UserWarning, match=part.name):
        assert len(sweep.load_results(tmp_path)) == len(ROWS) - 1


def test_one_flipped_bit_is_damage_and_not_another_accuracy(tmp_path):
    save(tmp_path, ROWS)
    part = tmp_path / "trials" / f"{ROWS[3].trial_id}.1.parquet"
    data = bytearray(part.read_bytes())
    data[data.index(struct.pack("<d", ROWS[3].top1_pct)) + 6] ^= 1
    part.write_bytes(data)
    assert pq.ParquetFile(part).read()["top1_pct"][0].as_py() != ROWS[3].top1_pct, "readers without checksums see it"
    assert store.read_rows(tmp_path)[1] == [part]


def test_a_part_with_a_column_of_another_type_is_damage(tmp_path):
    save(tmp_path, ROWS[:2])
    part = tmp_path / "trials" / "strange.1.parquet"
    pq.write_table(pa.table({"trial_id": ["strange"], "attempt": ["first"]}), part)
    frame, damaged = store.read_rows(tmp_path)
    assert len(frame) == 2
    assert damaged == [part]


def test_a_part_of_an_older_version_has_null_for_missing_columns(tmp_path):
    save(tmp_path, ROWS[:1])
    old = asdict(ROWS[1])
    del old["top1_ema_pct"]
    schema = arrow_schema(ResultRow)
    pq.write_table(
        pa.Table.from_pylist(
            [old | {"dropped": 1}],
            schema=pa.schema(
                [field for field in schema if field.name != "top1_ema_pct"] + [pa.field("dropped", pa.int64())]
            ),
        ),
        tmp_path / "trials" / f"{ROWS[1].trial_id}.1.parquet",
    )
    frame, damaged = store.read_rows(tmp_path)
    assert damaged == []
    assert list(frame.columns) == schema.names
    assert frame.set_index("trial_id")["top1_ema_pct"].isna().to_dict() == {
        ROWS[0].trial_id: False,
        ROWS[1].trial_id: True,
    }


def test_temporary_files_are_not_read(tmp_path):
    save(tmp_path, ROWS[:2])
    (tmp_path / "trials" / ".x.1.parquet.abc.tmp").write_bytes(b"half")
    frame, damaged = store.read_rows(tmp_path)
    assert (len(frame), damaged) == (2, [])


def test_a_writer_killed_at_any_moment_leaves_whole_parts(tmp_path):
    """A real kill -9, at several moments of a process that writes attempts one after another."""
    store.create_study(tmp_path)
    program = textwrap.dedent("""
        import sys, pathlib
        sys.path.insert(0, sys.argv[2])
        from synthetic_study import curve, files, result, table_plan
        from sweep.store import study as store
        trial = table_plan(2).trials[0]
        print("ready", flush=True)
        for attempt in range(int(sys.argv[3]), 10**6):
            row = result(trial, attempt=attempt, top1_pct=50.0)
            store.write_result(pathlib.Path(sys.argv[1]), row, curve(row))
            print(attempt, flush=True)
    """)
    stored = 0
    for round_, lines in enumerate((2, 5, 9)):
        first = 1 + round_ * 1000
        with subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parents[2] / "support"), str(first)],
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            for _ in range(1 + lines):
                writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
            stored += lines
        frame, damaged = store.read_rows(tmp_path)
        epochs, damaged_epochs = store.read_epochs(tmp_path)
        assert damaged + damaged_epochs == []
        assert len(frame) >= stored, "acknowledged rows exist"
        assert set(frame["attempt"]) <= set(epochs["attempt"]), "a row has its curve"


def test_a_curve_that_a_crash_left_without_its_row_is_replaced(tmp_path):
    save(tmp_path, ROWS[:1])
    (tmp_path / "trials" / f"{ROWS[0].trial_id}.1.parquet").unlink()
    store.write_result(tmp_path, ROWS[0], curve(ROWS[0])[:3])
    assert len(sweep.load_epochs(tmp_path)) == 3


def test_the_plan_is_replaced_as_a_whole(tmp_path):
    save_plan(tmp_path, replace(PLAN, study="ä"))
    save_plan(tmp_path, PLAN)
    assert read_plan(tmp_path) == PLAN
    assert [name for name in files(tmp_path) if not name.startswith("plans/")] == ["plan.json"]


def test_quarantine_overwrites_nothing(tmp_path):
    save(tmp_path, [])
    moved = []
    for text in ("first", "second", "third"):
        for kind in ("trials", "epochs"):
            part = tmp_path / kind / "t.1.parquet"
            part.write_text(f"{kind} {text}")
            moved += quarantine(tmp_path, [part])
            assert not part.exists()
    assert [path.read_text() for path in moved] == [
        f"{kind} {text}" for text in ("first", "second", "third") for kind in ("trials", "epochs")
    ]
    assert store.read_rows(tmp_path)[1] == []


def test_outcomes_are_the_first_completed_attempts(tmp_path):
    trial, other, third = PLAN.trials[:3]
    save(
        tmp_path,
        [
            result(trial, attempt=1, status="failed", error="x"),
            result(trial, attempt=2, top1_pct=2.0),
            result(trial, attempt=3, top1_pct=3.0),
            result(other, status="pruned"),
            result(third, top1_pct=5.0),
        ],
    )
    rows = store.read_rows(tmp_path)[0]
    outcomes = store.select_outcomes(rows)
    completed = outcomes[outcomes["status"] == "completed"]
    assert completed["top1_pct"].to_dict() == {trial.trial_id: 2.0, third.trial_id: 5.0}
    assert outcomes["attempt"].to_dict() == {trial.trial_id: 2, other.trial_id: 1, third.trial_id: 1}


def test_import_sweep_is_light():
    program = "import sys, sweep; print([m for m in ('torch', 'ray', 'pandas', 'pyarrow') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"
