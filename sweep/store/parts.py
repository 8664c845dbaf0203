"""Parts: a study's Parquet files, loose ones and the compacted ones that stand for many, each row seen once.

    <kind>/<name>.parquet            loose: written once, by one worker
    compacted/<kind>-<id>.parquet    the rows of many parts
    manifest.json                names the compacted file of each kind, and the parts whose rows it holds

A loose part that the manifest names is not read, whether it is still there or not; so the moment in which the manifest
is replaced is the moment in which its rows move.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sweep.errors import Problem, UserError
from sweep.names import is_plain
from sweep.schema import EpochRow, MeasureRow, ResultRow, arrow_schema
from sweep.store.manifest import MANIFEST, Compacted, read_manifest

COMPACTED = "compacted"
PROCESSES = 2
MERGED_AT = 500
WHOLE_UP_TO = 1000  # so many parts are read whole, which takes a second, and shows damage also where nobody looks


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a folder of parts holds."""

    name: str  # of the folder
    row_type: type
    key: tuple[str, ...]  # the columns that name a part; the first is also the name of other files
    order: tuple[str, ...]  # of the rows

    @property
    def schema(self) -> pa.Schema:
        return arrow_schema(self.row_type)


TRIALS = Kind(name="trials", row_type=ResultRow, key=("trial_id", "attempt"), order=("trial_id", "attempt"))
EPOCHS = Kind(name="epochs", row_type=EpochRow, key=("trial_id", "attempt"), order=("trial_id", "attempt", "epoch"))
MEASUREMENTS = Kind(name="measurements", row_type=MeasureRow, key=("measure_id",), order=("measure_id",))
KINDS = (TRIALS, EPOCHS, MEASUREMENTS)


class Damaged(Exception):
    """A file that cannot be read, or whose rows cannot be what they say."""


def compacted_parts(folder: Path, kind: Kind) -> frozenset[str]:
    """The names of the parts that a compacted file stands for."""
    entry = read_manifest(folder).get(kind.name)
    return entry.parts if entry else frozenset()


def all_parts(folder: Path, kind: Kind) -> set[str]:
    """The names of all parts that are stored, loose and compacted."""
    return {*part_names(folder, kind), *compacted_parts(folder, kind)}  # in this order, for a part may move meanwhile


def read_parts(
    folder: Path, kind: Kind, columns: Collection[str] | None = None, newest: int | None = None
) -> tuple[pa.Table, list[Path]]:
    """All rows of a kind, with the schema's columns (or those asked for and the key), and the parts that are damaged.

    Every row that was stored when the call began is there once, whatever is compacted meanwhile; with `newest`, those
    of so many loose parts, the last written.
    Raises UserError where the folder, the manifest or a compacted file cannot be read.
    """
    schema = _part_of(kind, columns)
    while True:
        manifest = read_manifest(folder)
        try:
            held, names = frozenset[str](), part_names(folder, kind)
            tables = []
            if kind.name in manifest:
                held = manifest[kind.name].parts
                tables.append(read_compacted(folder, kind, manifest[kind.name], schema))
            parts = [folder / kind.name / name for name in names if name not in held]
            if newest is not None and len(parts) > newest:
                parts = sorted(parts, key=lambda part: part.lstat().st_mtime_ns)[-newest:]
            loose, damaged = _read_all(parts, kind, kind.schema if len(parts) <= WHOLE_UP_TO else schema)
        except FileNotFoundError:  # compacted or set aside since it was listed
            continue
        if read_manifest(folder) == manifest:
            return merged(schema, [*tables, loose.select(schema.names)]), damaged


def read_part(folder: Path, kind: Kind, *key: str | int) -> list[dict[str, Any]] | None:
    """The rows of one part, as plain values; None if it is not stored, or damaged."""
    name = f"{'.'.join(map(str, key))}.parquet"
    while True:
        manifest = read_manifest(folder)
        entry = manifest.get(kind.name)
        try:
            if entry is None or name not in entry.parts:
                return _plain(read_loose(folder / kind.name / name, kind, kind.schema))
            return _plain(read_compacted(folder, kind, entry, kind.schema, key))
        except Damaged:
            return None
        except FileNotFoundError:
            if read_manifest(folder) == manifest:
                return None


def read_loose(part: Path, kind: Kind, schema: pa.Schema) -> pa.Table:
    """The rows of a loose part. Raises Damaged, and FileNotFoundError."""
    try:
        data = pa.BufferReader(part.read_bytes())
        table = pq.ParquetFile(data, page_checksum_verification=True).read(columns=schema.names, use_threads=False)
        table = table if table.schema.equals(schema) else _conform(table, schema)
        key = [table[name].to_pylist() for name in kind.key]
    except FileNotFoundError:
        if part.is_symlink():
            raise Damaged(part) from None
        raise
    except (pa.ArrowException, OSError) as error:
        raise Damaged(part) from error
    if not all(is_plain(identifier) for identifier in set(key[0])) or any(None in column for column in key):
        raise Damaged(part)
    return table


def read_compacted(
    folder: Path, kind: Kind, entry: Compacted, schema: pa.Schema, key: Sequence[str | int] = ()
) -> pa.Table:
    """The rows of a compacted file, or those of one part of it.

    Raises FileNotFoundError if another one has replaced it meanwhile, and UserError if it is damaged or lost.
    """
    file = folder / COMPACTED / entry.file
    try:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        if parquet.metadata.num_rows != entry.rows:
            raise pa.ArrowInvalid("rows are missing")
        groups = [
            group
            for group in range(parquet.num_row_groups)
            if not key or _may_hold(parquet, group, kind.key[0], key[0])
        ]
        table = _conform(parquet.read_row_groups(groups, columns=schema.names), schema)
    except FileNotFoundError:
        if read_manifest(folder).get(kind.name) != entry:
            raise
        raise _lost(folder, file, entry) from None
    except (pa.ArrowException, OSError) as error:
        raise _lost(folder, file, entry) from error
    for column, value in zip(kind.key, key, strict=False):
        table = table.filter(pc.equal(table[column], value))
    return table


def part_names(folder: Path, kind: Kind) -> list[str]:
    """The loose parts of a kind, by name; none where there is no such folder yet."""
    try:
        return sorted(name for name in os.listdir(folder / kind.name) if name.endswith(".parquet"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError([Problem(str(folder / kind.name), "", f"cannot be read: {error.strerror}")]) from error


def _part_of(kind: Kind, columns: Collection[str] | None) -> pa.Schema:
    schema = kind.schema
    if columns is None:
        return schema
    return pa.schema([field for field in schema if field.name in columns or field.name in kind.order])


def _read_all(parts: Sequence[Path], kind: Kind, schema: pa.Schema) -> tuple[pa.Table, list[Path]]:
    read = functools.partial(_read_share, kind=kind, schema=schema)
    if len(parts) <= WHOLE_UP_TO:
        return read(parts)
    # Threads would wait for the interpreter: most of a small file's time is spent there.
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("fork")) as pool:
        tables, damaged = zip(*pool.map(read, (parts[i::PROCESSES] for i in range(PROCESSES))), strict=True)
    return merged(schema, tables), sorted(itertools.chain(*damaged))


def _read_share(parts: Sequence[Path], kind: Kind, schema: pa.Schema) -> tuple[pa.Table, list[Path]]:
    damaged = []

    def read() -> Iterator[pa.Table]:
        for part in parts:
            try:
                yield read_loose(part, kind, schema)
            except Damaged:
                damaged.append(part)

    return merged(schema, read()), damaged


def merged(schema: pa.Schema, tables: Iterable[pa.Table]) -> pa.Table:
    """One table of many, in one piece: small ones take many times the memory of their rows, so few are held at once."""
    held = [schema.empty_table()]
    for table in tables:
        held.append(table)
        if len(held) == MERGED_AT:
            held = [pa.concat_tables(held).combine_chunks()]
    return pa.concat_tables(held).combine_chunks()


def _may_hold(parquet: pq.ParquetFile, group: int, column: str, value: str | int) -> bool:
    """Whether a row group can hold the value, by its least and greatest one."""
    metadata = parquet.metadata
    bounds = metadata.row_group(group).column(metadata.schema.names.index(column)).statistics
    return bool(bounds.min <= value <= bounds.max)


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A part of an older version: columns that it lacks are missing numbers, columns since removed are dropped."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _plain(table: pa.Table) -> list[dict[str, Any]]:
    return [
        {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
        for row in table.to_pylist()
    ]


def _lost(folder: Path, file: Path, entry: Compacted) -> UserError:
    sentence = (
        f"holds {entry.rows} rows, and cannot be read; restore it from a copy, or remove {MANIFEST}: "
        "what was compacted then runs again"
    )
    return UserError([Problem(str(folder), str(file.relative_to(folder)), sentence)])
