"""Moves damaged files to quarantine/, and writes what was lost again from what is intact."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from famba_core.errors import Problem
from sweep.errors import UserError, as_user_error
from sweep.files.checksum import CorruptFile
from sweep.store.compaction.compacted import is_whole, read_compacted, write_compacted
from sweep.store.compaction.manifest import is_manifest_lost, read_manifest, write_manifest
from sweep.store.layout import StudyPaths, is_compacted_file
from sweep.store.parts import read_loose_part
from sweep.store.row_kinds import ROW_KINDS

_KINDS_BY_NAME = {kind.name: kind for kind in ROW_KINDS}


def quarantine(folder: Path, damaged: Iterable[Path]) -> list[Path]:
    """Move damaged files of a study to quarantine/, replacing nothing there; return their new paths.

    The intact rows of a compacted file and its copy are written to a new one, and a lost manifest is written again.
    Only the process that holds the study's lock may call this.

    Args:
        damaged: as `parts.read_parts` returns them.

    Raises UserError if the folder cannot be written, or if a file is not damaged but cannot be read now: if it counted
    as missing, stored results would be computed again.
    """
    moved = []
    for path in damaged:
        with as_user_error(folder):
            if path == StudyPaths(folder).manifest:
                manifest = read_manifest(folder)
                moved += _move_to_quarantine(folder, path)
                write_manifest(folder, manifest)
            elif is_compacted_file(path):
                moved += _rewrite_compacted(folder, path)
            else:
                _check_is_damaged(folder, path)
                moved += _move_to_quarantine(folder, path)
    return moved


def list_damaged_compacted(folder: Path) -> list[Path]:
    """List the manifest if it is lost, and the compacted files and copies that are damaged or cannot be read now."""
    damaged = [StudyPaths(folder).manifest] if is_manifest_lost(folder) else []
    for entry in read_manifest(folder).values():
        for file in entry.paths(folder):
            try:
                readable = is_whole(file)
            except OSError:
                readable = False
            if not readable:
                damaged.append(file)
    return damaged


def _rewrite_compacted(folder: Path, damaged: Path) -> list[Path]:
    """Write the intact rows of a compacted file and its copy to new files; move what is damaged to quarantine/."""
    manifest = dict(read_manifest(folder))
    name = next((name for name, entry in manifest.items() if damaged in entry.paths(folder)), None)
    if name is None:
        return []  # already rewritten, with its copy
    entry, kind = manifest.pop(name), _KINDS_BY_NAME[name]
    try:
        lost = [file for file in entry.paths(folder) if not is_whole(file)]
    except OSError as error:
        raise _not_damaged(folder, damaged, error.strerror) from error
    if not lost:
        raise _not_damaged(folder, damaged)
    with contextlib.suppress(FileNotFoundError):  # both are gone
        rows = read_compacted(folder, kind, entry)
        parts = entry.parts if rows.whole else frozenset(kind.part_names(rows.table))
        if parts:
            manifest[name] = write_compacted(folder, kind, rows.table, parts)
    write_manifest(folder, manifest)
    moved = [target for file in lost for target in _move_to_quarantine(folder, file)]
    for file in entry.paths(folder):
        file.unlink(missing_ok=True)
    return moved


def _check_is_damaged(folder: Path, part: Path) -> None:
    kind = _KINDS_BY_NAME[part.parent.name]
    try:
        read_loose_part(part, kind, kind.schema)
    except CorruptFile:
        return
    except OSError as error:
        raise _not_damaged(folder, part, error.strerror) from error
    raise _not_damaged(folder, part)


def _not_damaged(folder: Path, file: Path, reason: str | None = "it could not be read for a moment") -> UserError:
    sentence = (
        f"is not damaged, but: {reason}; no file is moved, run the command again. If the problem stays, restore the "
        "file from a copy or move it away: its results are then computed again"
    )
    return UserError([Problem(str(folder), str(file.relative_to(folder)), sentence)])


def _move_to_quarantine(folder: Path, file: Path) -> list[Path]:
    """Return the new path, or nothing if the file is gone."""
    if not os.path.lexists(file):
        return []
    paths = StudyPaths(folder)
    target = paths.quarantine / (paths.compacted if is_compacted_file(file) else file.parent).name / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    while target.exists():
        target = target.with_name(f"{target.name}.again")
    return [file.rename(target)]
