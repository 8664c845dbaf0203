"""Compacted files: the rows of many parts in one file, and a copy of it.

    compacted/<kind>-<id>.parquet    the rows of many parts
    compacted/<kind>-<id>.copy       the same bytes, because damage to one file would otherwise cost all rows

Rows are written in row groups that never split a part. So one part is found without reading the whole file, and
damage to both files costs only the row groups that are damaged in both.
"""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from famba_core.files import write_atomically
from sweep.files.checksum import CorruptFile, verify_checksum
from sweep.store.layout import StudyPaths
from sweep.store.row_kinds import COMPACTED_KINDS, RowKind, arrow_errors_as_corrupt, concat_tables, conform, to_parquet

COPY = ".copy"  # not .parquet: a program that reads compacted/*.parquet would see each row twice
ROW_GROUPS, SMALLEST_GROUP = 100, 100  # about this many groups, of at least this many rows


@dataclass(frozen=True, kw_only=True)
class CompactedFile:
    """A file that holds the rows of many parts."""

    file: str  # in the folder compacted/
    rows: int
    parts: frozenset[str]  # their names

    def paths(self, folder: Path) -> tuple[Path, Path]:
        """Return the paths of the file and its copy in a study's folder."""
        path = StudyPaths(folder).compacted / self.file
        return path, path.with_suffix(COPY)


Manifest = Mapping[str, CompactedFile]  # by name of the kind


class CompactedRows(NamedTuple):
    """Rows that were read from a compacted file or its copy."""

    table: pa.Table
    whole: bool  # no row is missing
    damaged: tuple[Path, ...]  # the file, and its copy if it had to be read


def write_compacted(folder: Path, kind: RowKind, table: pa.Table, parts: frozenset[str]) -> CompactedFile:
    """Write the rows of these parts to a new file and its copy. Raises OSErrors."""
    table = table.sort_by([(column, "ascending") for column in kind.sort_columns]).combine_chunks()
    entry = CompactedFile(file=f"{kind.name}-{uuid.uuid4().hex}.parquet", rows=table.num_rows, parts=parts)
    options = {"compression": "zstd", "write_page_checksum": True, "write_statistics": [kind.sort_columns[0]]}
    data = to_parquet(table.schema, _split_rows(table, kind), **options)
    StudyPaths(folder).compacted.mkdir(exist_ok=True)
    for path in entry.paths(folder):
        write_atomically(path, data)
    return entry


def read_compacted(folder: Path, kind: RowKind, entry: CompactedFile, key: Sequence[str | int] = ()) -> CompactedRows:
    """Read a compacted file, or the rows of one part in it; read its copy if the file is damaged.

    If both are damaged, read the row groups that are intact in one of them. Raises FileNotFoundError if both are gone,
    and OSErrors of the file system if a file that may be intact cannot be read now.
    """
    damaged: list[Path] = []
    paths, unreadable = entry.paths(folder), None
    for path in paths:
        try:
            return CompactedRows(_select_part(key, _read(path, kind, key), kind), True, tuple(damaged))
        except (CorruptFile, FileNotFoundError):
            damaged.append(path)
        except OSError as error:
            unreadable = error
    if unreadable:
        raise unreadable
    if not any(path.exists() for path in paths):
        raise FileNotFoundError(paths[0])
    return CompactedRows(_select_part(key, _read_intact_groups(paths, kind), kind), False, tuple(damaged))


def is_whole(path: Path) -> bool:
    """True if a compacted file or its copy exists and is intact. Raises OSErrors of the file system."""
    try:
        stat = path.stat()
        version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if _known_intact.get(path) != version:
            if not verify_checksum(path.read_bytes()):
                return False
            _known_intact[path] = version
    except FileNotFoundError:
        return False
    return True


_known_intact: dict[Path, tuple[int, int, int]] = {}  # inode, time and size of files that need no second check


def rebuild_manifest(folder: Path) -> Manifest:
    """Return the manifest that follows from the compacted files themselves.

    Each compaction's file holds all rows of the one before, so of several files the one with most rows counts.
    """
    found: dict[str, CompactedFile] = {}
    for kind, entry in list_compacted_files(folder):
        if entry.rows > (found[kind.name].rows if kind.name in found else 0):
            found[kind.name] = entry
    return found


def list_compacted_files(folder: Path) -> Iterator[tuple[RowKind, CompactedFile]]:
    """Yield each compacted file, with the parts whose rows can be read in it or in its copy."""
    for kind in COMPACTED_KINDS:
        paths = StudyPaths(folder).compacted.glob(f"{kind.name}-*")
        for file in sorted({path.with_suffix(".parquet").name for path in paths}):
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                table = read_compacted(folder, kind, CompactedFile(file=file, rows=0, parts=frozenset())).table
                yield kind, CompactedFile(file=file, rows=table.num_rows, parts=frozenset(kind.part_names(table)))


def _split_rows(table: pa.Table, kind: RowKind) -> Iterator[pa.Table]:
    """Split sorted rows into groups that never split a part."""
    size = max(SMALLEST_GROUP, -(-table.num_rows // ROW_GROUPS))
    begins = np.zeros(max(table.num_rows - 1, 0), bool)  # True where the next row belongs to another part
    for column in kind.key:
        begins |= pc.not_equal(table[column][1:], table[column][:-1]).to_numpy()
    starts = np.array([0, *np.flatnonzero(begins) + 1])
    cuts = np.unique(starts[np.searchsorted(starts, np.arange(0, table.num_rows, size), side="right") - 1])
    for start, end in itertools.pairwise([*cuts, table.num_rows]):
        yield table.slice(start, end - start)


def _read(path: Path, kind: RowKind, key: Sequence[str | int]) -> pa.Table:
    """Read the row groups that can hold the part of this key, or all. Raises CorruptFile and OSErrors."""
    if not is_whole(path):
        raise CorruptFile(path)
    parquet = _open_parquet(path)
    groups = [i for i in range(parquet.num_row_groups) if not key or _may_hold(parquet, i, kind, key)]
    return concat_tables(kind.schema, (_read_group(parquet, i, kind) for i in groups))


def _read_intact_groups(paths: Sequence[Path], kind: RowKind) -> pa.Table:
    groups: dict[int, pa.Table] = {}
    for path in paths:
        with contextlib.suppress(CorruptFile, FileNotFoundError):
            parquet = _open_parquet(path)
            if not set(kind.schema.names).issuperset(parquet.schema_arrow.names):
                continue  # a column that a damaged footer renames would be missing silently
            for i in range(parquet.num_row_groups):
                with contextlib.suppress(CorruptFile):
                    groups[i] = groups[i] if i in groups else _read_group(parquet, i, kind)
    return concat_tables(kind.schema, (groups[i] for i in sorted(groups)))


def _open_parquet(path: Path) -> pq.ParquetFile:
    with arrow_errors_as_corrupt(path):
        return pq.ParquetFile(path, page_checksum_verification=True)


def _read_group(parquet: pq.ParquetFile, group: int, kind: RowKind) -> pa.Table:
    with arrow_errors_as_corrupt(group):
        return conform(parquet.read_row_group(group), kind.schema)


def _may_hold(parquet: pq.ParquetFile, group: int, kind: RowKind, key: Sequence[str | int]) -> bool:
    """True if the key lies between the least and the greatest value of the row group's first column."""
    metadata = parquet.metadata
    bounds = metadata.row_group(group).column(metadata.schema.names.index(kind.key[0])).statistics
    return bool(bounds.min <= key[0] <= bounds.max)


def _select_part(key: Sequence[str | int], table: pa.Table, kind: RowKind) -> pa.Table:
    for column, value in zip(kind.key, key, strict=False):
        table = table.filter(pc.equal(table[column], value))
    return table
