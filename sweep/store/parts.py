"""Parts: a study's Parquet files, loose ones and the compacted ones that stand for many, each row seen once.

    <kind>/<name>.parquet            loose: written once, by one worker
    compacted/<kind>-<id>.parquet    the rows of many parts
    manifest.json                names the compacted file of each kind, and the parts whose rows it holds

A loose part that the manifest names is not read, whether it is still there or not; so the moment in which the manifest
is replaced is the moment in which its rows move.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweep.errors import Problem, UserError
from sweep.files.checksum import CorruptFile, verify_checksum
from sweep.files.names import is_safe_name
from sweep.store.compaction.compacted import CompactedFile, CompactedRows, read_compacted
from sweep.store.compaction.manifest import is_manifest_lost, read_manifest
from sweep.store.layout import StudyPaths
from sweep.store.row_kinds import RowKind, conform

CONCAT_EVERY = 500
READ_WHOLE_UP_TO = 1000  # so many parts are read whole, which takes a second, and shows damage also where nobody looks


def list_compacted_parts(folder: Path, kind: RowKind) -> frozenset[str]:
    """The names of the parts that a compacted file stands for."""
    entry = read_manifest(folder).get(kind.name)
    return entry.parts if entry else frozenset()


def list_parts(folder: Path, kind: RowKind) -> set[str]:
    """The names of all parts that are stored, loose and compacted."""
    loose = list_loose_parts(folder, kind)  # first: a part may be compacted meanwhile
    return {*loose, *list_compacted_parts(folder, kind)}


def read_parts(
    folder: Path, kind: RowKind, columns: Collection[str] | None = None, newest: int | None = None
) -> tuple[pa.Table, list[Path]]:
    """All rows of a kind, with the schema's columns (or those asked for and the key), and the files that are damaged
    or cannot be read: parts, a compacted file, whose other rows count, or the manifest, which is not needed.

    Every row that was stored when the call began is there once, whatever is compacted meanwhile; with `newest`, those
    of so many loose parts, the last written.
    Raises UserError where the folder cannot be read.
    """
    schema = _select_columns(kind, columns)
    while True:
        manifest = read_manifest(folder)
        names = list_loose_parts(folder, kind)
        damaged = [StudyPaths(folder).manifest] if is_manifest_lost(folder) else []
        try:
            compacted, held = kind.schema.empty_table(), frozenset[str]()
            if entry := manifest.get(kind.name):
                compacted, whole, found = _read_compacted_or_empty(folder, kind, entry)
                held = entry.parts if whole else frozenset(kind.part_names(compacted))
                damaged += found
            parts = [folder / kind.name / name for name in names if name not in held]
            if newest is not None and len(parts) > newest:
                parts = sorted(parts, key=lambda part: part.lstat().st_mtime_ns)[-newest:]
            loose, unread = _read_loose_parts(parts, kind, kind.schema if len(parts) <= READ_WHOLE_UP_TO else schema)
        except FileNotFoundError:  # compacted or set aside since it was listed
            continue
        if read_manifest(folder) == manifest:
            return concat_tables(schema, [compacted.select(schema.names), loose.select(schema.names)]), damaged + unread


def read_part(folder: Path, kind: RowKind, *key: str | int) -> list[dict[str, Any]] | None:
    """The rows of one part, as plain values; None if it is not stored, or damaged.

    Raises OSErrors of the file system as they come.
    """
    name = f"{'.'.join(map(str, key))}.parquet"
    while True:
        manifest = read_manifest(folder)
        entry = manifest.get(kind.name)
        try:
            if entry is None or name not in entry.parts:
                return _to_dicts(read_loose_part(folder / kind.name / name, kind, kind.schema))
            table, whole, _ = read_compacted(folder, kind, entry, key)
            return _to_dicts(table) if whole or table.num_rows else None
        except CorruptFile:
            return None
        except FileNotFoundError:
            if read_manifest(folder) == manifest:
                return None


def read_loose_part(part: Path, kind: RowKind, schema: pa.Schema) -> pa.Table:
    """The rows of a loose part: those that its name says, and no others, which may be somewhere else as well.

    Raises CorruptFile, FileNotFoundError, and OSErrors of the file system.
    """
    if not stat.S_ISREG(part.lstat().st_mode):  # a pipe would be waited for
        raise CorruptFile(part)
    data = part.read_bytes()
    if verify_checksum(data) is False:
        raise CorruptFile(part)
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)  # older ones have no other
        table = parquet.read(columns=schema.names, use_threads=False)
        table = table if table.schema.equals(schema) else conform(table, schema)
        identifiers, names = set(table[kind.key[0]].to_pylist()), kind.part_names(table)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, MemoryError):
            raise
        raise CorruptFile(part) from error
    if not all(map(is_safe_name, identifiers)) or not (names == {part.name} or (not names and kind.may_be_empty)):
        raise CorruptFile(part)
    return table


def list_loose_parts(folder: Path, kind: RowKind) -> list[str]:
    """The loose parts of a kind, by name; none where there is no such folder yet."""
    try:
        return sorted(name for name in os.listdir(folder / kind.name) if name.endswith(".parquet"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError([Problem(str(folder / kind.name), "", f"cannot be read: {error.strerror}")]) from error


def _select_columns(kind: RowKind, columns: Collection[str] | None) -> pa.Schema:
    schema = kind.schema
    if columns is None:
        return schema
    return pa.schema([field for field in schema if field.name in columns or field.name in kind.sort_columns])


def _read_compacted_or_empty(folder: Path, kind: RowKind, entry: CompactedFile) -> CompactedRows:
    """What cannot be read counts as damaged. Raises FileNotFoundError if it was replaced."""
    try:
        return read_compacted(folder, kind, entry)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and read_manifest(folder).get(kind.name) != entry:
            raise
        return CompactedRows(kind.schema.empty_table(), False, entry.places(folder))


def _read_loose_parts(parts: Sequence[Path], kind: RowKind, schema: pa.Schema) -> tuple[pa.Table, list[Path]]:
    read = functools.partial(_read_serially, kind=kind, schema=schema)
    if len(parts) <= READ_WHOLE_UP_TO:
        return read(parts)
    # Threads would wait for the interpreter: most of a small file's time is spent there.
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_read_in_child, args=(read, parts[1::2], sending), daemon=True)
    child.start()
    sending.close()
    table, damaged = read(parts[::2])
    try:
        other = receiving.recv()
    except EOFError:  # it was killed
        other = read(parts[1::2])
    child.join()
    if isinstance(other, Exception):
        raise other
    return concat_tables(schema, [table, other[0]]), sorted([*damaged, *other[1]])


def _read_in_child(
    read: Callable[[Sequence[Path]], tuple[pa.Table, list[Path]]], parts: Sequence[Path], answers: Connection
) -> None:
    """In the other process, which ends with its share, whatever becomes of the first one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    answer: tuple[pa.Table, list[Path]] | Exception
    try:
        answer = read(parts)
    except Exception as error:
        answer = error
    with contextlib.suppress(BrokenPipeError):
        answers.send(answer)


def _read_serially(parts: Sequence[Path], kind: RowKind, schema: pa.Schema) -> tuple[pa.Table, list[Path]]:
    unread = []

    def read() -> Iterator[pa.Table]:
        for part in parts:
            try:
                yield read_loose_part(part, kind, schema)
            except FileNotFoundError:
                raise
            except (CorruptFile, OSError):
                unread.append(part)

    return concat_tables(schema, read()), unread


def concat_tables(schema: pa.Schema, tables: Iterable[pa.Table]) -> pa.Table:
    """One table of many, in one piece: small ones take many times the memory of their rows, so few are held at once."""
    held = [schema.empty_table()]
    for table in tables:
        held.append(table)
        if len(held) == CONCAT_EVERY:
            held = [pa.concat_tables(held).combine_chunks()]
    return pa.concat_tables(held).combine_chunks()


def _to_dicts(table: pa.Table) -> list[dict[str, Any]]:
    return [
        {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
        for row in table.to_pylist()
    ]
