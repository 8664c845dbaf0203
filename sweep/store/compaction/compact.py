"""Results and curves become one file each, and no reader sees a row twice or misses one meanwhile.

    1. the rows of the compacted file so far and of the loose parts are written to a new file in compacted/
    2. manifest.json is replaced by one that names the new file and every part that it stands for
    3. those parts, and the compacted file before, are removed

What reads is told by the manifest which parts not to read, so the second step is the moment in which rows move. A
process killed before it has left a file that nobody reads, one killed after it parts that nobody reads: the next
compaction removes them. Rungs and logs, which are no parts, are folded into a file each, written before what it stands
for is removed: what a killed compaction leaves is there twice, and counts once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from famba_core.files import write_atomically
from sweep.files.checksum import CorruptFile
from sweep.store.compaction import compacted
from sweep.store.compaction.compacted import CompactedFile, Manifest
from sweep.store.compaction.manifest import read_manifest, write_manifest
from sweep.store.errors import as_user_error
from sweep.store.layout import StudyPaths
from sweep.store.lock import lock_study
from sweep.store.parts import concat_tables, list_loose_parts, read_loose_part
from sweep.store.recovery import list_damaged_compacted, quarantine
from sweep.store.row_kinds import COMPACTED_KINDS, EPOCHS, TRIALS, RowKind
from sweep.store.rungs import fold_rungs
from sweep.store.study import check_is_study


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """What a compaction has done."""

    parts: int  # that became part of a compacted file
    rows: Mapping[str, int]  # in the compacted files, by kind
    logs: int  # that became part of logs/folded.txt
    set_aside: tuple[Path, ...]  # damaged parts, where they are now

    @property
    def sentence(self) -> str:
        held = ", ".join(f"{count} rows of {kind}" for kind, count in self.rows.items())
        lines = [f"{self.parts} parts compacted; compacted/ holds {held or 'nothing'}"]
        if self.logs:
            lines.append(f"{self.logs} tracebacks are in logs/folded.txt now, each under its name")
        return "\n".join(lines + [f"{part}: could not be read and is set aside" for part in self.set_aside])


def compact(folder: Path) -> Compaction:
    """Make one file of each kind of part in a study's folder, of each rung, and of the logs.

    CorruptFile files are set aside. Killed at any point it loses nothing, and a second call goes on.
    Raises UserError if `folder` holds no study, another process drives it, or it cannot be read or written.
    """
    check_is_study(folder)
    with lock_study(folder), as_user_error(folder):
        set_aside = quarantine(folder, list_damaged_compacted(folder))
        before = read_manifest(folder)
        manifest: dict[str, CompactedFile] = {}
        for kind in COMPACTED_KINDS:
            set_aside += _compact_kind(folder, kind, before, manifest)
        if manifest != before:
            write_manifest(folder, manifest)
        _remove_superseded(folder, manifest)
        fold_rungs(folder)
        logs = _fold_logs(folder)
    return Compaction(
        parts=sum(len(entry.parts) for entry in manifest.values()) - sum(len(entry.parts) for entry in before.values()),
        rows={kind: entry.rows for kind, entry in manifest.items()},
        logs=logs,
        set_aside=tuple(set_aside),
    )


def _compact_kind(folder: Path, kind: RowKind, before: Manifest, manifest: dict[str, CompactedFile]) -> list[Path]:
    """Write the new file of a kind and enter it in `manifest`; returns the parts that were set aside."""
    old = before.get(kind.name)
    held = old.parts if old else frozenset[str]()
    with_row = manifest[TRIALS.name].parts if TRIALS.name in manifest else frozenset[str]()
    damaged, names = [], set()

    def tables() -> Iterator[pa.Table]:
        if old:
            yield compacted.read_compacted(folder, kind, old).table
        for name in list_loose_parts(folder, kind):
            if name in held or (kind is EPOCHS and name not in with_row):
                continue  # a curve without its row may still be replaced, so it stays loose
            part = folder / kind.name / name
            try:
                yield read_loose_part(part, kind, kind.schema)
                names.add(name)
            except CorruptFile:
                damaged.append(part)

    table = concat_tables(kind.schema, tables())
    if names:
        manifest[kind.name] = compacted.write_compacted(folder, kind, table, held | names)
    elif old:
        manifest[kind.name] = old
    return quarantine(folder, damaged)


def _remove_superseded(folder: Path, manifest: Manifest) -> None:
    """Loose parts that the manifest names, and compacted files that it does not.

    One that has rows which nothing else has stays: nobody knows how it came there.
    """
    for kind, entry in compacted.list_compacted_files(folder):
        now = manifest.get(kind.name)
        held = now.parts if now else frozenset()
        if (now is None or entry.file != now.file) and entry.parts <= held | set(list_loose_parts(folder, kind)):
            for place in entry.paths(folder):
                place.unlink(missing_ok=True)
    for kind in COMPACTED_KINDS:
        held = manifest[kind.name].parts if kind.name in manifest else frozenset()
        for name in list_loose_parts(folder, kind):
            if name in held:
                (folder / kind.name / name).unlink()


def _fold_logs(folder: Path) -> int:
    """Make sections of one file of them, each under its name; returns how many."""
    folded = StudyPaths(folder).folded_log
    logs = sorted(path for path in folded.parent.glob("*.txt") if path != folded and not path.is_symlink())
    if logs:
        before = folded.read_bytes() if folded.exists() else b""
        sections = [f"==> {log.name} <==\n".encode() + log.read_bytes() + b"\n" for log in logs]
        new = [section for section in sections if section not in before]
        write_atomically(folded, before + b"".join(new))
        for log in logs:
            log.unlink()
    return len(logs)
