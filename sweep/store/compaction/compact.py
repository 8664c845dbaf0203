"""Merges the parts of a study into one file of results and one of curves, while others may read them.

    1. write the rows of the previous compacted file and of the loose parts to a new file in compacted/
    2. replace manifest.json by one that names the new file and every part whose rows it holds
    3. remove these parts and the previous compacted file

Readers skip the parts that the manifest names, so all rows move at step 2, and each is seen exactly once. A process
killed before step 2 leaves a new file that nobody reads; one killed after it leaves old files that nobody reads. The
next compaction removes them. Rungs and logs, which are not parts, are folded into one file each. It is written before
the files that it replaces are removed, and a reader counts a line that is in both once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from famba_core.files import write_atomically
from sweep.errors import as_user_error
from sweep.files.checksum import CorruptFile
from sweep.store.compaction import compacted
from sweep.store.compaction.compacted import CompactedFile, Manifest
from sweep.store.compaction.manifest import read_manifest, write_manifest
from sweep.store.layout import StudyPaths
from sweep.store.lock import lock_study
from sweep.store.parts import list_loose_parts, read_loose_part
from sweep.store.recovery import list_damaged_compacted, quarantine
from sweep.store.row_kinds import COMPACTED_KINDS, EPOCHS, TRIALS, RowKind, concat_tables
from sweep.store.rungs import fold_rungs
from sweep.store.study import check_is_study


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """Summary of a compaction."""

    parts: int  # merged into compacted files
    rows: Mapping[str, int]  # in the compacted files, by kind
    logs: int  # merged into logs/folded.txt
    quarantined: tuple[Path, ...]  # damaged files, at their new paths in quarantine/

    @property
    def sentence(self) -> str:
        held = ", ".join(f"{count} rows of {kind}" for kind, count in self.rows.items())
        lines = [f"{self.parts} parts compacted; compacted/ holds {held or 'nothing'}"]
        if self.logs:
            lines.append(f"{self.logs} tracebacks are now in logs/folded.txt, each under its name")
        return "\n".join(lines + [f"moved to quarantine/ because it is damaged: {part}" for part in self.quarantined])


def compact(folder: Path) -> Compaction:
    """Merge the parts of each kind, the files of each rung, and the logs of a study.

    Damaged files are moved to quarantine/. Killed at any point it loses nothing, and a second call goes on.
    Raises UserError if `folder` holds no study, another process runs it, or it cannot be read or written.
    """
    check_is_study(folder)
    with lock_study(folder), as_user_error(folder):
        quarantined = quarantine(folder, list_damaged_compacted(folder))
        before = read_manifest(folder)
        manifest: dict[str, CompactedFile] = {}
        for kind in COMPACTED_KINDS:
            quarantined += _compact_kind(folder, kind, before, manifest)
        if manifest != before:
            write_manifest(folder, manifest)
        _remove_superseded(folder, manifest)
        fold_rungs(folder)
        logs = _fold_logs(folder)
    return Compaction(
        parts=sum(len(entry.parts) for entry in manifest.values()) - sum(len(entry.parts) for entry in before.values()),
        rows={kind: entry.rows for kind, entry in manifest.items()},
        logs=logs,
        quarantined=tuple(quarantined),
    )


def _compact_kind(folder: Path, kind: RowKind, before: Manifest, manifest: dict[str, CompactedFile]) -> list[Path]:
    """Write the new file of a kind and add it to `manifest`; return the damaged parts in quarantine/."""
    old = before.get(kind.name)
    held = old.parts if old else frozenset[str]()
    with_row = manifest[TRIALS.name].parts if TRIALS.name in manifest else frozenset[str]()
    damaged, names = [], set()

    def tables() -> Iterator[pa.Table]:
        if old:
            yield compacted.read_compacted(folder, kind, old).table
        for name in list_loose_parts(folder, kind):
            if name in held or (kind is EPOCHS and name not in with_row):
                continue  # a curve without its row may still be replaced, so it stays a loose part
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
    """Delete files the manifest has replaced; keep any with rows found nowhere else."""
    for kind, entry in compacted.list_compacted_files(folder):
        now = manifest.get(kind.name)
        held = now.parts if now else frozenset()
        if (now is None or entry.file != now.file) and entry.parts <= held | set(list_loose_parts(folder, kind)):
            for path in entry.paths(folder):
                path.unlink(missing_ok=True)
    for kind in COMPACTED_KINDS:
        held = manifest[kind.name].parts if kind.name in manifest else frozenset()
        for name in list_loose_parts(folder, kind):
            if name in held:
                (folder / kind.name / name).unlink()


def _fold_logs(folder: Path) -> int:
    """Append each traceback to logs/folded.txt, under its name; return how many there were."""
    folded = StudyPaths(folder).folded_log
    logs = sorted(path for path in folded.parent.glob("[!.]*.txt") if path != folded and not path.is_symlink())
    if logs:
        before = folded.read_bytes() if folded.exists() else b""
        sections = [f"==> {log.name} <==\n".encode() + log.read_bytes() + b"\n" for log in logs]
        new = [section for section in sections if section not in before]
        write_atomically(folded, before + b"".join(new))
        for log in logs:
            log.unlink()
    return len(logs)
