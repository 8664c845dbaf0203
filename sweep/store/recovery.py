"""What happens to damaged files: they are set aside, and what they were needed for is made from what is whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from sweep.errors import Problem, UserError
from sweep.files.checksum import CorruptFile
from sweep.store.compaction.compacted import is_whole, read_compacted, write_compacted
from sweep.store.compaction.manifest import is_manifest_lost, read_manifest, write_manifest
from sweep.store.errors import as_user_error
from sweep.store.layout import StudyPaths, is_compacted_file
from sweep.store.parts import read_loose_part
from sweep.store.row_kinds import ROW_KINDS

_KINDS_BY_NAME = {kind.name: kind for kind in ROW_KINDS}


def quarantine(folder: Path, damaged: Iterable[Path]) -> list[Path]:
    """Move damaged files of a study out of the readers' way, overwriting nothing; returns where they are now.

    What is whole of a compacted file or of its copy gets a new one, and a lost manifest is written again. For the
    study's driver.

    Args:
        damaged: as `parts.read_parts` returns them.

    Raises UserError where the folder cannot be written, or where a file is not damaged but cannot be read now: who took
    it for missing would train again what is stored.
    """
    moved = []
    for path in damaged:
        with as_user_error(folder):
            if path == StudyPaths(folder).manifest:
                found = read_manifest(folder)
                moved += _move_aside(folder, path)
                write_manifest(folder, found)
            elif is_compacted_file(path):
                moved += _rewrite_compacted(folder, path)
            else:
                _confirm_damage(folder, path)
                moved += _move_aside(folder, path)
    return moved


def list_damaged_compacted(folder: Path) -> list[Path]:
    """The manifest, if it is lost, and the compacted files and copies that are not whole, or cannot be read now."""
    places = [place for entry in read_manifest(folder).values() for place in entry.places(folder)]
    damaged = [place for place in places if not _is_whole(place)]
    return [StudyPaths(folder).manifest, *damaged] if is_manifest_lost(folder) else damaged


def _rewrite_compacted(folder: Path, damaged: Path) -> list[Path]:
    """Write what is whole of a compacted file or its copy into new ones, and set aside what is not."""
    manifest = dict(read_manifest(folder))
    name, entry = next(
        ((name, entry) for name, entry in manifest.items() if damaged in entry.places(folder)), (None, None)
    )
    if name is None or entry is None:
        return []  # replaced already, with its copy
    places, kind = entry.places(folder), _KINDS_BY_NAME[name]
    try:
        lost = [place for place in places if not is_whole(place)]
    except OSError as error:
        raise _unreadable_error(folder, damaged, error.strerror) from error
    if not lost:
        raise _unreadable_error(folder, damaged, "it could not be read for a moment")
    del manifest[name]
    with contextlib.suppress(FileNotFoundError):  # both are gone
        rows = read_compacted(folder, kind, entry)
        parts = entry.parts if rows.whole else frozenset(kind.part_names(rows.table))
        if parts:
            manifest[name] = write_compacted(folder, kind, rows.table, parts)
    write_manifest(folder, manifest)
    moved = [target for place in lost for target in _move_aside(folder, place)]
    for place in places:
        place.unlink(missing_ok=True)
    return moved


def _is_whole(place: Path) -> bool:
    with contextlib.suppress(OSError):
        return is_whole(place)
    return False


def _confirm_damage(folder: Path, part: Path) -> None:
    kind = _KINDS_BY_NAME[part.parent.name]
    try:
        read_loose_part(part, kind, kind.schema)
    except CorruptFile:
        return
    except OSError as error:
        raise _unreadable_error(folder, part, error.strerror) from error
    raise _unreadable_error(folder, part, "it could not be read for a moment")


def _unreadable_error(folder: Path, file: Path, why: str | None) -> UserError:
    sentence = (
        f"is not damaged, but: {why}; nothing is set aside, run the command again. If it stays so, restore the file "
        "from a copy or move it away: what it holds then runs again"
    )
    return UserError([Problem(str(folder), str(file.relative_to(folder)), sentence)])


def _move_aside(folder: Path, path: Path) -> list[Path]:
    if not os.path.lexists(path):
        return []
    paths = StudyPaths(folder)
    kind = paths.compacted if is_compacted_file(path) else path.parent
    target = paths.quarantine / kind.name / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    while target.exists():
        target = target.with_name(f"{target.name}.again")
    return [path.rename(target)]
