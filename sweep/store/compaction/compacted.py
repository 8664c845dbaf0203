"""Compacted files: the rows of many parts in one, a copy of it, and what is left of them where both are damaged.

    compacted/<kind>-<id>.parquet    the rows of many parts
    compacted/<kind>-<id>.copy       the same bytes: a loose part that is damaged costs one row, this file all of them

They are written in groups of rows, none of which divides a part, so that one part is found without reading all, and
damage to both files costs the groups that it is in.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from famba_core.files import write_atomically
from sweep.files.checksum import CHECKSUM_KEY, CHECKSUM_PLACEHOLDER, CorruptFile, verify_checksum, with_checksum
from sweep.store.layout import StudyPaths
from sweep.store.row_kinds import COMPACTED_KINDS, RowKind, conform

COPY = ".copy"  # not *.parquet, or whoever reads all of these would see each row twice
ROW_GROUPS, SMALLEST_GROUP = 100, 100  # about so many; of so many rows at least


@dataclass(frozen=True, kw_only=True)
class CompactedFile:
    """The file that holds the rows of many parts."""

    file: str  # in the folder compacted/
    rows: int
    parts: frozenset[str]  # names of the parts

    def paths(self, folder: Path) -> tuple[Path, Path]:
        """The file and its copy, of a study's folder."""
        path = StudyPaths(folder).compacted / self.file
        return path, path.with_suffix(COPY)


Manifest = Mapping[str, CompactedFile]  # by the kind's name


class CompactedRows(NamedTuple):
    """What a reading of a compacted file has found."""

    table: pa.Table
    whole: bool  # whether no row is missing
    damaged: tuple[Path, ...]  # of the file and its copy, as far as they had to be read


def write_compacted(folder: Path, kind: RowKind, table: pa.Table, parts: frozenset[str]) -> CompactedFile:
    """Store rows in a new file, and its copy, that stand for these parts."""
    table = table.sort_by([(column, "ascending") for column in kind.sort_columns]).combine_chunks()
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink, table.schema, compression="zstd", write_page_checksum=True, write_statistics=[kind.sort_columns[0]]
    ) as writer:
        for group in _split_rows(table, kind):
            writer.write_table(group)
        writer.add_key_value_metadata({CHECKSUM_KEY: CHECKSUM_PLACEHOLDER})
    entry = CompactedFile(file=f"{kind.name}-{uuid.uuid4().hex}.parquet", rows=table.num_rows, parts=parts)
    data = with_checksum(sink.getvalue())
    StudyPaths(folder).compacted.mkdir(exist_ok=True)
    for place in entry.paths(folder):
        write_atomically(place, data)
    return entry


def read_compacted(folder: Path, kind: RowKind, entry: CompactedFile, key: Sequence[str | int] = ()) -> CompactedRows:
    """The rows of a compacted file, or those of one part of it, from its copy where that alone is whole.

    Where neither is, the groups of rows that are whole in one of them. Raises FileNotFoundError where both are gone,
    and OSErrors of the file system where what may be whole cannot be read now.
    """
    damaged: list[Path] = []
    places, unreadable = entry.paths(folder), None
    for place in places:
        try:
            return CompactedRows(_select_part(key, _read(place, kind, key), kind), True, tuple(damaged))
        except (CorruptFile, FileNotFoundError):
            damaged.append(place)
        except OSError as error:
            unreadable = error
    if unreadable:
        raise unreadable
    if not any(place.exists() for place in places):
        raise FileNotFoundError(places[0])
    return CompactedRows(_select_part(key, _read_intact_groups(places, kind), kind), False, tuple(damaged))


def is_whole(place: Path) -> bool:
    """Whether a compacted file or its copy is there as it was written. Raises OSErrors of the file system."""
    try:
        _check_file(place)
    except (CorruptFile, FileNotFoundError):
        return False
    return True


def rebuild_manifest(folder: Path) -> Manifest:
    """What the compacted files say themselves, for a study whose manifest is lost.

    A compaction's file holds all that the one before held; so of several the one with most rows counts.
    """
    found: dict[str, CompactedFile] = {}
    for kind, entry in list_compacted_files(folder):
        if entry.rows > (found[kind.name].rows if kind.name in found else 0):
            found[kind.name] = entry
    return found


def list_compacted_files(folder: Path) -> Iterator[tuple[RowKind, CompactedFile]]:
    """Each compacted file, with the parts whose rows can be read in it or in its copy."""
    for kind in COMPACTED_KINDS:
        paths = StudyPaths(folder).compacted.glob(f"{kind.name}-*")
        for file in sorted({path.with_suffix(".parquet").name for path in paths}):
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                table = read_compacted(folder, kind, CompactedFile(file=file, rows=0, parts=frozenset())).table
                yield kind, CompactedFile(file=file, rows=table.num_rows, parts=frozenset(kind.part_names(table)))


def _split_rows(table: pa.Table, kind: RowKind) -> Iterator[pa.Table]:
    """Sorted rows in groups that divide no part."""
    size = max(SMALLEST_GROUP, -(-table.num_rows // ROW_GROUPS))
    begins = np.zeros(max(table.num_rows - 1, 0), bool)  # whether the row after this one is another part's
    for column in kind.key:
        begins |= pc.not_equal(table[column][1:], table[column][:-1]).to_numpy()
    starts = np.array([0, *np.flatnonzero(begins) + 1])
    cuts = np.unique(starts[np.searchsorted(starts, np.arange(0, table.num_rows, size), side="right") - 1])
    for start, end in itertools.pairwise([*cuts, table.num_rows]):
        yield table.slice(start, end - start)


def _read(place: Path, kind: RowKind, key: Sequence[str | int]) -> pa.Table:
    """The groups of rows that can hold the part of this key, or all. Raises CorruptFile and OSErrors."""
    _check_file(place)
    parquet = _open_parquet(place)
    groups = range(parquet.num_row_groups)
    return _concat((_read_group(parquet, i, kind) for i in groups if not key or _may_hold(parquet, i, kind, key)), kind)


def _read_intact_groups(places: Sequence[Path], kind: RowKind) -> pa.Table:
    groups: dict[int, pa.Table] = {}
    for place in places:
        with contextlib.suppress(CorruptFile, FileNotFoundError):
            parquet = _open_parquet(place)
            if not set(kind.schema.names).issuperset(parquet.schema_arrow.names):
                continue  # a footer that names a column wrongly would lose its numbers without a word
            for i in range(parquet.num_row_groups):
                with contextlib.suppress(CorruptFile):
                    groups[i] = groups[i] if i in groups else _read_group(parquet, i, kind)
    return _concat((groups[i] for i in sorted(groups)), kind)


def _check_file(place: Path) -> None:
    """Raise CorruptFile where a file is not as it was written. That it is, is remembered: it is never written again."""
    stat = place.stat()
    version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    if _known_intact.get(place) != version:
        if not verify_checksum(place.read_bytes()):
            raise CorruptFile(place)
        _known_intact[place] = version


_known_intact: dict[Path, tuple[int, int, int]] = {}  # inode, time and size of files that were whole


def _open_parquet(place: Path) -> pq.ParquetFile:
    with _arrow_errors_as_corrupt(place):
        return pq.ParquetFile(place, page_checksum_verification=True)


def _read_group(parquet: pq.ParquetFile, group: int, kind: RowKind) -> pa.Table:
    with _arrow_errors_as_corrupt(group):
        return conform(parquet.read_row_group(group), kind.schema)


@contextlib.contextmanager
def _arrow_errors_as_corrupt(what: object) -> Iterator[None]:
    """Turns Arrow's errors about content into CorruptFile. Some are OSErrors, but not of the file system: these have
    a number."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            raise
        raise CorruptFile(what) from error


def _may_hold(parquet: pq.ParquetFile, group: int, kind: RowKind, key: Sequence[str | int]) -> bool:
    """Whether a row group can hold the part, by the least and the greatest of its first column."""
    metadata = parquet.metadata
    bounds = metadata.row_group(group).column(metadata.schema.names.index(kind.key[0])).statistics
    return bool(bounds.min <= key[0] <= bounds.max)


def _concat(tables: Iterable[pa.Table], kind: RowKind) -> pa.Table:
    return pa.concat_tables([kind.schema.empty_table(), *tables]).combine_chunks()


def _select_part(key: Sequence[str | int], table: pa.Table, kind: RowKind) -> pa.Table:
    for column, value in zip(kind.key, key, strict=False):
        table = table.filter(pc.equal(table[column], value))
    return table
