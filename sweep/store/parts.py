"""Reads parts, loose and compacted ones, so that each row is seen once.

    trials/<name>.parquet            a loose part: written once, by one worker
    compacted/trials-<id>.parquet    the rows of many parts
    manifest.json                    names the compacted file of each kind, and the parts whose rows it holds

A loose part that the manifest names is not read, whether it still exists or not. So all rows of a compaction move at
the moment in which the manifest is replaced.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import signal
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweep.errors import UserError
from sweep.files.checksum import CorruptFile, verify_checksum
from sweep.files.names import is_safe_name, list_names
from sweep.store.compaction.compacted import CompactedFile, CompactedRows, read_compacted
from sweep.store.compaction.manifest import is_manifest_lost, read_manifest
from sweep.store.layout import StudyPaths
from sweep.store.row_kinds import RowKind, arrow_errors_as_corrupt, concat_tables, conform

# Up to this many parts, all columns are read, which takes a second and also shows damage in the other columns.
READ_WHOLE_UP_TO = 1000


def list_compacted_parts(folder: Path, kind: RowKind) -> frozenset[str]:
    """Return the names of the parts that a compacted file has replaced."""
    entry = read_manifest(folder).get(kind.name)
    return entry.parts if entry else frozenset()


def list_parts(folder: Path, kind: RowKind) -> set[str]:
    """Return the names of all stored parts, loose and compacted."""
    loose = list_loose_parts(folder, kind)  # first: a part may be compacted concurrently
    return {*loose, *list_compacted_parts(folder, kind)}


def list_loose_parts(folder: Path, kind: RowKind) -> list[str]:
    """Return the sorted names of a kind's loose parts; none if its folder does not exist yet."""
    try:
        return sorted(name for name in list_names(folder / kind.name) if name.endswith(".parquet"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", folder / kind.name) from error


def read_parts(
    folder: Path, kind: RowKind, columns: Collection[str] | None = None, newest: int | None = None
) -> tuple[pa.Table, list[Path]]:
    """Read all rows of a kind; return them and the files that are damaged or cannot be read.

    Such a file is a loose part, a compacted file, whose other rows are returned, or the manifest, which is not needed.
    Every row that was stored when the call began is returned once, even if parts are compacted concurrently.

    Args:
        columns: only these and the sort columns.
        newest: at most this many loose parts, the last written.

    Raises UserError if the folder cannot be read.
    """
    schema = kind.schema
    if columns is not None:
        schema = pa.schema([field for field in schema if field.name in {*columns, *kind.sort_columns}])
    while True:
        manifest = read_manifest(folder)
        names = list_loose_parts(folder, kind)
        damaged = [StudyPaths(folder).manifest] if is_manifest_lost(folder) else []
        try:
            compacted, replaced = kind.schema.empty_table(), frozenset[str]()
            if entry := manifest.get(kind.name):
                compacted, whole, found = _read_compacted_or_empty(folder, kind, entry)
                replaced = entry.parts if whole else frozenset(kind.part_names(compacted))
                damaged += found
            parts = [folder / kind.name / name for name in names if name not in replaced]
            if newest is not None and len(parts) > newest:
                parts = sorted(parts, key=lambda part: part.lstat().st_mtime_ns)[-newest:]
            loose, unread = _read_loose_parts(parts, kind, kind.schema if len(parts) <= READ_WHOLE_UP_TO else schema)
        except FileNotFoundError:  # compacted or moved to quarantine/ since it was listed
            continue
        if read_manifest(folder) == manifest:
            return concat_tables(schema, [compacted.select(schema.names), loose.select(schema.names)]), damaged + unread


def read_part(folder: Path, kind: RowKind, *key: str | int) -> list[dict[str, Any]] | None:
    """Return the rows of one part as plain values, or None if the part is not stored or damaged.

    Raises OSErrors of the file system.
    """
    part = folder / kind.name / kind.part_name(*key)
    while True:
        manifest = read_manifest(folder)
        entry = manifest.get(kind.name)
        try:
            if entry is None or part.name not in entry.parts:
                return _to_dicts(read_loose_part(part, kind, kind.schema))
            table, whole, _ = read_compacted(folder, kind, entry, key)
            return _to_dicts(table) if whole or table.num_rows else None
        except CorruptFile:
            return None
        except FileNotFoundError:
            if read_manifest(folder) == manifest:
                return None


def read_loose_part(part: Path, kind: RowKind, schema: pa.Schema) -> pa.Table:
    """Read one part; check that it holds exactly the rows its file name promises.

    Raises CorruptFile, FileNotFoundError, and OSErrors of the file system.
    """
    if not stat.S_ISREG(part.lstat().st_mode):  # reading a pipe would block
        raise CorruptFile(part)
    data = part.read_bytes()
    if verify_checksum(data) is False:
        raise CorruptFile(part)
    with arrow_errors_as_corrupt(part):
        # Parts of older versions have no checksum but those of Parquet's pages.
        parquet = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        table = parquet.read(columns=schema.names, use_threads=False)
        table = table if table.schema.equals(schema) else conform(table, schema)
        identifiers, names = set(table[kind.key[0]].to_pylist()), kind.part_names(table)
    if not all(map(is_safe_name, identifiers)) or not (names == {part.name} or (not names and kind.may_be_empty)):
        raise CorruptFile(part)
    return table


def _read_compacted_or_empty(folder: Path, kind: RowKind, entry: CompactedFile) -> CompactedRows:
    """Read a compacted file; one that cannot be read counts as damaged. Raises FileNotFoundError if it was replaced."""
    try:
        return read_compacted(folder, kind, entry)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and read_manifest(folder).get(kind.name) != entry:
            raise
        return CompactedRows(kind.schema.empty_table(), False, entry.paths(folder))


def _read_loose_parts(parts: Sequence[Path], kind: RowKind, schema: pa.Schema) -> tuple[pa.Table, list[Path]]:
    """Read loose parts, in two processes if they are many; return the rows and the parts that cannot be read.

    Threads would not help: most of the time of a small file is spent in Python, under its global lock.
    """
    read = functools.partial(_read_serially, kind=kind, schema=schema)
    if len(parts) <= READ_WHOLE_UP_TO:
        return read(parts)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_read_in_child, args=(read, parts[1::2], receiver, sender), daemon=True)
    child.start()
    sender.close()
    table, unread = read(parts[::2])
    try:
        other_table, other_unread = receiver.recv()
    except EOFError:  # the child was killed or has failed
        other_table, other_unread = read(parts[1::2])
    child.join()
    return concat_tables(schema, [table, other_table]), sorted([*unread, *other_unread])


def _read_in_child(
    read: Callable[[Sequence[Path]], tuple[pa.Table, list[Path]]],
    parts: Sequence[Path],
    receiver: Connection,
    sender: Connection,
) -> None:
    """Send what `read` returns. The child ends afterwards, even if its parent has died."""
    receiver.close()  # the parent's; with this copy open, sending to a dead parent would block
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(FileNotFoundError, BrokenPipeError):  # if a part is gone, the parent notices it too
        sender.send(read(parts))


def _read_serially(parts: Sequence[Path], kind: RowKind, schema: pa.Schema) -> tuple[pa.Table, list[Path]]:
    unread = []

    def tables() -> Iterator[pa.Table]:
        for part in parts:
            try:
                yield read_loose_part(part, kind, schema)
            except FileNotFoundError:
                raise
            except (CorruptFile, OSError):
                unread.append(part)

    return concat_tables(schema, tables()), unread


def _to_dicts(table: pa.Table) -> list[dict[str, Any]]:
    return [
        {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
        for row in table.to_pylist()
    ]
