"""A study's folder: parts written atomically and read back, and plan.json.

    plan.json                             the resolved plan
    trials/<trial_id>.<attempt>.parquet   one row: that attempt's result
    epochs/<trial_id>.<attempt>.parquet   its learning curve
    measurements/<measure_id>.parquet     one row: a training step measured alone, for the trials that share it
    compacted/, manifest.json             many of these parts as one file (parts.py)
    checkpoints/<trial_id>/               while a trial runs
    rungs/<group>/<epoch>/                what trials had reached there (rungs.py)
    quarantine/                           parts that could not be read
    logs/<trial_id>.<attempt>.txt         traceback of what failed; folded.txt holds many
    optuna.log                            a copy of a search for optuna-dashboard, never read
    report/                               drawn from the above, and replaceable
    driver.lock                           held by the process that runs the study (driver_lock.py)

The parts are the truth: a file for each attempt, which no other writer touches, and which takes no other row with it
when it is damaged. Checksums show damage inside a file (checksum.py).
"""

from __future__ import annotations

import io
import os
import uuid
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from famba_core.files import write_atomically
from sweep.errors import Problem, UserError
from sweep.files.checksum import CHECKSUM_KEY, CHECKSUM_PLACEHOLDER, with_checksum
from sweep.schema import EpochRow, MeasureRow, ResultRow, arrow_schema
from sweep.store.errors import as_user_error
from sweep.store.layout import StudyPaths
from sweep.store.parts import list_compacted_parts, list_parts, read_part, read_parts
from sweep.store.row_kinds import EPOCHS, MEASUREMENTS, TRIALS, RowKind

PROBE_BYTES = 64 * 1024  # a file system that is full takes an empty file


class StoredRows(NamedTuple):
    """What a reading of a study's rows has found."""

    rows: pd.DataFrame
    damaged: list[Path]  # parts that cannot be read


def create_study(folder: Path) -> None:
    """Make the folders of a study and check that a part can be stored in them; those that exist stay.

    Raises UserError where the folder cannot be written, now rather than after the first trial.
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
        raise UserError([Problem(str(folder), "", "holds no study; a study is a folder results/<study>-<profile>")])


def save_plan(folder: Path, text: str) -> None:
    """Store plan.json, replacing the one before. Raises UserError where the folder cannot be written."""
    create_study(folder)
    with as_user_error(folder):
        write_atomically(StudyPaths(folder).plan, text.encode())


def read_plan_json(folder: Path) -> bytes:
    """What plan.json holds. Raises UserError where there is none."""
    plan = StudyPaths(folder).plan
    try:
        return plan.read_bytes()
    except OSError as error:
        sentence = f"cannot be read: {error.strerror}; a study's folder looks like results/<study>-<profile>"
        raise UserError([Problem(str(folder), plan.name, sentence)]) from None


def write_result(folder: Path, row: ResultRow, epochs: Sequence[EpochRow]) -> None:
    """Store one attempt: the curve first and then the row, so that a stored row always has its curve.

    Raises FileExistsError if this attempt is stored already, and other OSErrors as they come.
    """
    name = f"{row.trial_id}.{row.attempt}.parquet"
    row_part, curve_part = StudyPaths(folder).trials / name, StudyPaths(folder).epochs / name
    if row_part.exists() or name in list_compacted_parts(folder, TRIALS):
        raise FileExistsError(f"{row_part} is stored already; an attempt is written once")
    for part in (row_part, curve_part):
        part.parent.mkdir(parents=True, exist_ok=True)
    # A curve without its row is what a crash between the two left, and may be replaced.
    write_atomically(curve_part, _to_parquet(epochs, EpochRow))
    write_atomically(row_part, _to_parquet([row], ResultRow), replace=False)


def write_measurement(folder: Path, row: MeasureRow) -> None:
    """Store an isolated measurement. Raises OSErrors as they come."""
    measurements = StudyPaths(folder).measurements
    measurements.mkdir(parents=True, exist_ok=True)
    write_atomically(measurements / f"{row.measure_id}.parquet", _to_parquet([row], MeasureRow))


def read_rows(folder: Path, columns: Collection[str] | None = None, newest: int | None = None) -> StoredRows:
    """All stored rows, in the order of trial and attempt, and the parts that cannot be read.

    Columns and dtypes are those of ResultRow, with or without rows: whole numbers are Int64 (missing: NA), other
    numbers float64 (missing: NaN), times UTC, schedules tuples.

    Args:
        columns: only these, and trial_id and attempt; that is several times as fast.
        newest: not more than so many of the parts that are not compacted, those that were written last.

    Raises UserError where the folder cannot be read.
    """
    return StoredRows(*_read_frame(folder, TRIALS, columns, newest))


def is_current(folder: Path, stored: StoredRows) -> bool:
    """Whether what was read is what is stored still; not known, and so False, of parts that were damaged.

    Names tell it, at a hundredth of the time: what a part holds never changes.
    """
    keys = zip(stored.rows["trial_id"], stored.rows["attempt"], strict=True)
    return not stored.damaged and {f"{trial_id}.{attempt}.parquet" for trial_id, attempt in keys} == list_parts(
        folder, TRIALS
    )


def read_epochs(folder: Path) -> tuple[pd.DataFrame, list[Path]]:
    """All stored epochs, in the order of trial, attempt and epoch, and the parts that cannot be read."""
    return _read_frame(folder, EPOCHS)


def read_measurements(folder: Path, columns: Collection[str] | None = None) -> tuple[pd.DataFrame, list[Path]]:
    """All stored isolated measurements, in the order of their ids, and the parts that cannot be read."""
    return _read_frame(folder, MEASUREMENTS, columns)


def read_result(folder: Path, trial_id: str, attempt: int) -> dict[str, Any] | None:
    """One attempt's row, as plain values (missing: None); None if it is not stored, or damaged."""
    rows = read_part(folder, TRIALS, trial_id, attempt)
    return rows[0] if rows else None


def read_curve(folder: Path, trial_id: str, attempt: int) -> list[dict[str, Any]] | None:
    """One attempt's epochs, in their order, as plain values; None if they are not stored, or damaged."""
    return read_part(folder, EPOCHS, trial_id, attempt)


def read_measurement(folder: Path, measure_id: str) -> dict[str, Any] | None:
    """One isolated measurement, as plain values; None if it is not stored, or damaged."""
    rows = read_part(folder, MEASUREMENTS, measure_id)
    return rows[0] if rows else None


def load_results(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """The results of a study, one row per attempt, as `read_rows` gives them.

    Warns about parts that cannot be read. Raises UserError if the folder holds no study.
    """
    return _load(folder, read_rows)


def load_epochs(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """The learning curves of a study, one row per epoch of an attempt; warns and raises as `load_results`."""
    return _load(folder, read_epochs)


def _to_parquet(rows: Sequence[ResultRow] | Sequence[EpochRow] | Sequence[MeasureRow], row_type: type) -> bytes:
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=arrow_schema(row_type))
    sink = io.BytesIO()
    # Dictionaries, statistics and Arrow's own schema would be most of a part this small, and of the time to read it.
    with pq.ParquetWriter(
        sink, table.schema, use_dictionary=False, write_statistics=False, store_schema=False
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({CHECKSUM_KEY: CHECKSUM_PLACEHOLDER})
    return with_checksum(sink.getvalue())


def _load(folder: str | os.PathLike[str], read: Callable[[Path], tuple[pd.DataFrame, list[Path]]]) -> pd.DataFrame:
    check_is_study(Path(folder))
    frame, damaged = read(Path(folder))
    if damaged:
        names = ", ".join(str(part) for part in damaged)
        warnings.warn(f"left out {len(damaged)} damaged part(s), as if not run: {names}", stacklevel=3)
    return frame


def _read_frame(
    folder: Path, kind: RowKind, columns: Collection[str] | None = None, newest: int | None = None
) -> tuple[pd.DataFrame, list[Path]]:
    table, damaged = read_parts(folder, kind, columns, newest)
    # Numbers keep a missing value apart from zero without turning layer 6 into 6.0.
    frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    for field in table.schema:
        if pa.types.is_list(field.type):
            frame[field.name] = frame[field.name].map(tuple)
    return frame.sort_values(list(kind.sort_columns), ignore_index=True), damaged
