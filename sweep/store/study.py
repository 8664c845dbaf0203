"""Creates a study's folder, stores rows there, reads them back, and selects one row per trial."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from famba_core.files import write_atomically
from sweep.errors import UserError, as_user_error
from sweep.schema import EpochRow, MeasureRow, ResultRow
from sweep.store.layout import StudyPaths
from sweep.store.parts import list_compacted_parts, list_parts, read_part, read_parts
from sweep.store.row_kinds import EPOCHS, MEASUREMENTS, TRIALS, RowKind, to_parquet

PROBE_BYTES = 64 * 1024  # an empty file can be written even to a full disk


class StoredRows(NamedTuple):
    """Rows that were read, and the files that could not be read."""

    rows: pd.DataFrame
    damaged: list[Path]


def create_study(folder: Path) -> None:
    """Create the folders of a study where they are missing, and write a probe file.

    Raises UserError if the folder cannot be written: now rather than after the first trial.
    """
    paths = StudyPaths(folder)
    with as_user_error(folder):
        for needed in (paths.trials, paths.epochs, paths.checkpoints):
            needed.mkdir(parents=True, exist_ok=True)
        probe = paths.trials / f".{uuid.uuid4().hex}"
        try:
            write_atomically(probe, bytes(PROBE_BYTES), replace=False)
        finally:
            probe.unlink(missing_ok=True)


def check_is_study(folder: Path) -> None:
    """Raise UserError if a folder holds no study."""
    if not StudyPaths(folder).trials.is_dir():
        raise UserError("holds no study; a study is a folder results/<study>-<profile>", folder)


def write_result(folder: Path, row: ResultRow, epochs: Sequence[EpochRow]) -> None:
    """Store one attempt: first the learning curve, then the row, so that a stored row always has its curve.

    Raises FileExistsError if this attempt is already stored, and other OSErrors of the file system.
    """
    key = (row.trial_id, row.attempt)
    part = StudyPaths(folder).trials / TRIALS.part_name(*key)
    if part.exists() or part.name in list_compacted_parts(folder, TRIALS):
        raise FileExistsError(f"{part} is already stored; an attempt is written once")
    # A curve without its row was left by a crash between the two writes, and may be replaced.
    _write_part(folder, EPOCHS, key, epochs)
    _write_part(folder, TRIALS, key, [row], replace=False)


def write_measurement(folder: Path, row: MeasureRow) -> None:
    """Store an isolated measurement, or replace it. Raises OSErrors of the file system."""
    _write_part(folder, MEASUREMENTS, (row.measure_id,), [row])


def read_rows(folder: Path, columns: Collection[str] | None = None, newest: int | None = None) -> StoredRows:
    """Read all stored results, sorted by trial and attempt.

    Columns and dtypes are those of ResultRow even if there are no rows: whole numbers are Int64 (missing: NA), other
    numbers float64 (missing: NaN), times UTC, schedules tuples.

    Args:
        columns: only these, with trial_id and attempt; this is several times as fast.
        newest: at most this many loose parts, the last written.

    Raises UserError if the folder cannot be read.
    """
    return _read_frame(folder, TRIALS, columns, newest)


def read_epochs(folder: Path) -> StoredRows:
    """Read all stored epochs, sorted by trial, attempt and epoch. Raises as `read_rows`."""
    return _read_frame(folder, EPOCHS)


def read_measurements(folder: Path, columns: Collection[str] | None = None, newest: int | None = None) -> StoredRows:
    """Read all stored isolated measurements, sorted by measure_id. Arguments and errors are those of `read_rows`."""
    return _read_frame(folder, MEASUREMENTS, columns, newest)


def is_current(folder: Path, stored: StoredRows) -> bool:
    """True if `stored` still holds all results; False if parts were damaged, as these may have been replaced.

    Compares file names alone, which takes a hundredth of the time of reading: the content of a part never changes.
    """
    keys = zip(stored.rows["trial_id"], stored.rows["attempt"], strict=True)
    return not stored.damaged and {TRIALS.part_name(*key) for key in keys} == list_parts(folder, TRIALS)


def read_result(folder: Path, trial_id: str, attempt: int) -> dict[str, Any] | None:
    """Return one attempt's row as plain values (missing: None), or None if it is not stored or damaged."""
    rows = read_part(folder, TRIALS, trial_id, attempt)
    return rows[0] if rows else None


def read_curve(folder: Path, trial_id: str, attempt: int) -> list[dict[str, Any]] | None:
    """Return one attempt's epochs in order, as plain values, or None if they are not stored or damaged."""
    return read_part(folder, EPOCHS, trial_id, attempt)


def read_measurement(folder: Path, measure_id: str) -> dict[str, Any] | None:
    """Return one isolated measurement as plain values, or None if it is not stored or damaged."""
    rows = read_part(folder, MEASUREMENTS, measure_id)
    return rows[0] if rows else None


def select_outcomes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per stored trial, indexed by trial_id: its first completed attempt, else its last attempt.

    Args:
        rows: as `read_rows` returns them, with at least trial_id, attempt and status.
    """
    done = rows["status"] == "completed"
    rank = rows["attempt"].where(~done, -rows["attempt"])
    ranked = rows.assign(done=done, rank=rank).sort_values(["trial_id", "done", "rank"])
    return ranked.drop(columns=["done", "rank"]).drop_duplicates("trial_id", keep="last").set_index("trial_id")


def _write_part(
    folder: Path,
    kind: RowKind,
    key: Sequence[str | int],
    rows: Sequence[ResultRow | EpochRow | MeasureRow],
    *,
    replace: bool = True,
) -> None:
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=kind.schema)
    # Dictionaries, statistics and the Arrow schema would be most of such a small file, and of the time to read it.
    data = to_parquet(table.schema, [table], use_dictionary=False, write_statistics=False, store_schema=False)
    part = folder / kind.name / kind.part_name(*key)
    part.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(part, data, replace=replace)


def _read_frame(
    folder: Path, kind: RowKind, columns: Collection[str] | None = None, newest: int | None = None
) -> StoredRows:
    table, damaged = read_parts(folder, kind, columns, newest)
    # Int64 tells a missing value from zero without turning layer 6 into 6.0.
    frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}.get)
    for field in table.schema:
        if pa.types.is_list(field.type):
            frame[field.name] = frame[field.name].map(tuple)
    return StoredRows(frame.sort_values(list(kind.sort_columns), ignore_index=True), damaged)
