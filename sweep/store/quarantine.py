"""What happens to damaged files: they are set aside, and what they were needed for is made from what is whole."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from sweep.errors import Problem, UserError
from sweep.store import explained_as_user_error
from sweep.store.compacted import COMPACTED, Compacted, read_compacted, write_compacted
from sweep.store.kinds import KINDS, Kind
from sweep.store.manifest import MANIFEST, is_lost, read_manifest, write_manifest
from sweep.store.parts import Damaged, read_loose

QUARANTINE = "quarantine"  # status.py lists what is there
_KINDS = {kind.name: kind for kind in KINDS}


def quarantine(folder: Path, damaged: Iterable[Path]) -> list[Path]:
    """Move damaged files of a study out of the readers' way, overwriting nothing; returns where they are now.

    What is whole of a compacted file gets a new one, and a lost manifest is written again. For the study's driver.

    Args:
        damaged: as `parts.read_parts` returns them.

    Raises UserError where the folder cannot be written, or where a file is not damaged but cannot be read now: who took
    it for missing would train again what is stored.
    """
    moved = []
    for path in damaged:
        with explained_as_user_error(folder):
            if path == folder / MANIFEST:
                found = read_manifest(folder)
                moved += _move(folder, path)
                write_manifest(folder, found)
            elif path.parent.name == COMPACTED:
                moved += _replace(folder, path)
            else:
                _confirm_damage(folder, path)
                moved += _move(folder, path)
    return moved


def damaged_compacted(folder: Path) -> list[Path]:
    """The manifest, if it is lost, and the compacted files that are not whole."""
    entries = read_manifest(folder).items()
    return [folder / MANIFEST] * is_lost(folder) + [
        folder / COMPACTED / entry.file for kind, entry in entries if not _whole_rows(folder, _KINDS[kind], entry)[1]
    ]


def _replace(folder: Path, file: Path) -> list[Path]:
    """Write what is whole of a compacted file into a new one, and move it."""
    manifest = dict(read_manifest(folder))
    for name, entry in read_manifest(folder).items():
        if entry.file == file.name:
            kind = _KINDS[name]
            rows, whole = _whole_rows(folder, kind, entry)
            if whole:
                raise _unreadable(folder, file, "it could not be read for a moment")
            del manifest[name]
            if rows.num_rows:
                manifest[name] = write_compacted(folder, kind, rows, frozenset(kind.part_names(rows)))
    write_manifest(folder, manifest)
    return _move(folder, file)


def _whole_rows(folder: Path, kind: Kind, entry: Compacted) -> tuple[pa.Table, bool]:
    try:
        return read_compacted(folder, kind, entry)
    except FileNotFoundError:
        return kind.schema.empty_table(), False
    except OSError as error:
        raise _unreadable(folder, folder / COMPACTED / entry.file, error.strerror) from error


def _confirm_damage(folder: Path, part: Path) -> None:
    kind = _KINDS[part.parent.name]
    try:
        read_loose(part, kind, kind.schema)
    except Damaged:
        return
    except OSError as error:
        raise _unreadable(folder, part, error.strerror) from error
    raise _unreadable(folder, part, "it could not be read for a moment")


def _unreadable(folder: Path, file: Path, why: str | None) -> UserError:
    sentence = (
        f"is not damaged, but: {why}; nothing is set aside, run the command again. If it stays so, restore the file "
        "from a copy or move it away: what it holds then runs again"
    )
    return UserError([Problem(str(folder), str(file.relative_to(folder)), sentence)])


def _move(folder: Path, path: Path) -> list[Path]:
    if not os.path.lexists(path):
        return []
    target = folder / QUARANTINE / (COMPACTED if path.name == MANIFEST else path.parent.name) / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    while target.exists():
        target = target.with_name(f"{target.name}.again")
    return [path.rename(target)]
