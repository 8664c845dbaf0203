"""Compacted files: the rows of many parts in one, and what is left of them where one is damaged.

They are written in groups of rows with checksums, so that one part is found without reading all, and damage costs the
groups that it is in.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sweep.store.files import write_atomically
from sweep.store.kinds import KINDS, Kind, conform

COMPACTED = "compacted"
ROW_GROUPS, SMALLEST_GROUP = 100, 100  # at most so many; of so many rows at least


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """The file that holds the rows of many parts."""

    file: str  # in the folder compacted/
    rows: int
    parts: frozenset[str]  # names of the parts


Manifest = Mapping[str, Compacted]  # by the kind's name


def write_compacted(folder: Path, kind: Kind, table: pa.Table, parts: frozenset[str]) -> Compacted:
    """Store rows, in the order of the kind, in a new file that stands for these parts."""
    sink = io.BytesIO()
    pq.write_table(
        table.sort_by([(column, "ascending") for column in kind.order]),
        sink,
        compression="zstd",
        write_page_checksum=True,
        write_statistics=[kind.order[0]],
        row_group_size=max(SMALLEST_GROUP, -(-table.num_rows // ROW_GROUPS)),
    )
    file = f"{kind.name}-{uuid.uuid4().hex}.parquet"
    (folder / COMPACTED).mkdir(exist_ok=True)
    write_atomically(folder / COMPACTED / file, sink.getvalue())
    return Compacted(file=file, rows=table.num_rows, parts=parts)


def read_compacted(folder: Path, kind: Kind, entry: Compacted, key: Sequence[str | int] = ()) -> tuple[pa.Table, bool]:
    """The rows of a compacted file, or those of one part of it; and whether nothing that was read is damaged.

    Of a damaged file the groups of rows that are whole. Raises FileNotFoundError, and OSErrors of the file system.
    """
    groups: list[pa.Table | None] = []
    try:
        parquet = pq.ParquetFile(folder / COMPACTED / entry.file, page_checksum_verification=True)
        whole = parquet.metadata.num_rows == entry.rows
        groups = [
            _read_group(parquet, group, kind)
            for group in range(parquet.num_row_groups)
            if not key or _may_hold(parquet, group, kind.key[0], key[0])
        ]
    except (pa.ArrowException, OSError) as error:
        _raise_if_of_the_file_system(error)
        whole = False
    table = pa.concat_tables([kind.schema.empty_table(), *_without_torn_parts(groups, kind)]).combine_chunks()
    for column, value in zip(kind.key, key, strict=False):
        table = table.filter(pc.equal(table[column], value))
    return table, whole and None not in groups


def find_compacted(folder: Path) -> Manifest:
    """What the compacted files say themselves, for a study whose manifest is lost.

    A compaction's file holds all that the one before held; so of several the one with most rows counts.
    """
    found: dict[str, Compacted] = {}
    for kind, entry in described(folder):
        if entry.rows > (found[kind.name].rows if kind.name in found else 0):
            found[kind.name] = entry
    return found


def described(folder: Path) -> Iterator[tuple[Kind, Compacted]]:
    """Each compacted file, with the parts whose rows can be read in it."""
    for kind in KINDS:
        for path in sorted((folder / COMPACTED).glob(f"{kind.name}-*.parquet")):
            table, _ = read_compacted(folder, kind, Compacted(file=path.name, rows=0, parts=frozenset()))
            yield kind, Compacted(file=path.name, rows=table.num_rows, parts=frozenset(kind.part_names(table)))


def _read_group(parquet: pq.ParquetFile, group: int, kind: Kind) -> pa.Table | None:
    """None if it is damaged."""
    try:
        return conform(parquet.read_row_group(group), kind.schema)
    except (pa.ArrowException, OSError) as error:
        _raise_if_of_the_file_system(error)
        return None


def _without_torn_parts(groups: Sequence[pa.Table | None], kind: Kind) -> list[pa.Table]:
    """The groups that are whole, without the parts that have rows in a damaged neighbour, perhaps."""
    tables = []
    for i, table in enumerate(groups):
        if table is None:
            continue
        if len(kind.order) > len(kind.key):
            if i > 0 and groups[i - 1] is None:
                table = _without_part_of(table, 0, kind)
            if table.num_rows and i + 1 < len(groups) and groups[i + 1] is None:
                table = _without_part_of(table, table.num_rows - 1, kind)
        tables.append(table)
    return tables


def _without_part_of(table: pa.Table, row: int, kind: Kind) -> pa.Table:
    same = [pc.equal(table[column], table[column][row]) for column in kind.key]
    return table.filter(pc.invert(pc.and_(*same)))


def _may_hold(parquet: pq.ParquetFile, group: int, column: str, value: str | int) -> bool:
    """Whether a row group can hold the value, by its least and greatest one."""
    metadata = parquet.metadata
    bounds = metadata.row_group(group).column(metadata.schema.names.index(column)).statistics
    return bool(bounds.min <= value <= bounds.max)


def _raise_if_of_the_file_system(error: Exception) -> None:
    """Arrow's own errors about what a file holds are OSErrors as well, without a number."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
