"""The three kinds of stored rows (results, learning curves, measurements), and their Arrow tables and Parquet files."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from famba_core.arrow import arrow_schema
from sweep.files.checksum import CHECKSUM_KEY, CHECKSUM_PLACEHOLDER, CorruptFile, with_checksum
from sweep.schema import EpochRow, MeasureRow, ResultRow

CONCAT_EVERY = 500  # tables


@dataclass(frozen=True, kw_only=True)
class RowKind:
    """One kind of stored row: its type, key and sort order."""

    name: str  # also of the folder that holds its parts
    row_type: type
    key: tuple[str, ...]  # the columns whose values name a part
    sort_columns: tuple[str, ...]  # the key, and one more column where a part has several rows

    @cached_property
    def schema(self) -> pa.Schema:
        return arrow_schema(self.row_type)

    @property
    def may_be_empty(self) -> bool:
        """True if a part may have no row: the curve of a trial that failed in its first epoch."""
        return self.sort_columns != self.key

    def part_name(self, *key: str | int) -> str:
        """Return the file name of the part with this key."""
        return f"{'.'.join(map(str, key))}.parquet"

    def part_names(self, table: pa.Table) -> set[str]:
        """Return the file names of the parts that these rows belong to."""
        keys = zip(*(table[column].to_pylist() for column in self.key), strict=True)
        return {self.part_name(*key) for key in keys}


_ATTEMPT = ("trial_id", "attempt")
TRIALS = RowKind(name="trials", row_type=ResultRow, key=_ATTEMPT, sort_columns=_ATTEMPT)
EPOCHS = RowKind(name="epochs", row_type=EpochRow, key=_ATTEMPT, sort_columns=(*_ATTEMPT, "epoch"))
MEASUREMENTS = RowKind(name="measurements", row_type=MeasureRow, key=("measure_id",), sort_columns=("measure_id",))
ROW_KINDS = (TRIALS, EPOCHS, MEASUREMENTS)
COMPACTED_KINDS = (TRIALS, EPOCHS)  # not measurements, which may be replaced by those of another device


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Bring rows of an older version to a schema: missing columns become null, removed columns are dropped."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def concat_tables(schema: pa.Schema, tables: Iterable[pa.Table]) -> pa.Table:
    """Concatenate tables. Small tables take many times the memory of their rows, so only a few are held at once."""
    held = [schema.empty_table()]
    for table in tables:
        held.append(table)
        if len(held) == CONCAT_EVERY:
            held = [pa.concat_tables(held).combine_chunks()]
    return pa.concat_tables(held).combine_chunks()


def to_parquet(schema: pa.Schema, groups: Iterable[pa.Table], **options: Any) -> bytes:
    """Return a Parquet file with these row groups and a checksum; `options` are those of ParquetWriter."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, **options) as writer:
        for group in groups:
            writer.write_table(group)
        writer.add_key_value_metadata({CHECKSUM_KEY: CHECKSUM_PLACEHOLDER})
    return with_checksum(sink.getvalue())


@contextlib.contextmanager
def arrow_errors_as_corrupt(what: object) -> Iterator[None]:
    """Raise Arrow's errors about a file's content as CorruptFile.

    Some of them are OSErrors too, but only those of the file system have an errno.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            raise
        raise CorruptFile(what) from error
