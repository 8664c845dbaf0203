"""Arrow tables of stored rows, and their Parquet files with a checksum."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweep.files.checksum import CHECKSUM_KEY, CHECKSUM_PLACEHOLDER, CorruptFile, with_checksum

CONCAT_EVERY = 500  # tables


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
