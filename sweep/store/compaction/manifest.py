"""manifest.json: names the compacted file of each kind, and the parts whose rows it holds."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from famba_core.files import write_atomically
from sweep.files.checksum import CHECKSUM_KEY, CHECKSUM_PLACEHOLDER, verify_checksum, with_checksum
from sweep.files.names import is_safe_name
from sweep.store.compaction.compacted import CompactedFile, Manifest, rebuild_manifest
from sweep.store.layout import StudyPaths
from sweep.store.row_kinds import COMPACTED_KINDS

_MANIFEST: TypeAdapter[dict[str, CompactedFile]] = TypeAdapter(dict[str, CompactedFile])
# The last one decoded of each study (None: damaged), with the inode, time and size of its file. Decoding thousands of
# names each time a single part is read would take most of the time.
_decoded: dict[Path, tuple[tuple[int, int, int], Manifest | None]] = {}


def read_manifest(folder: Path) -> Manifest:
    """Return the study's manifest; if it is lost, the one that follows from the compacted files."""
    manifest = _read_stored(folder)
    return rebuild_manifest(folder) if manifest is None else manifest


def is_manifest_lost(folder: Path) -> bool:
    """True if the manifest is damaged, or missing although rows are in compacted files only."""
    if _read_stored(folder) is not None:
        return False
    if StudyPaths(folder).manifest.exists():
        return True
    # Before a first compaction writes its manifest, all parts that it will name still exist.
    found = rebuild_manifest(folder)
    return any(not (folder / kind / part).exists() for kind, entry in found.items() for part in entry.parts)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest atomically. Raises OSErrors."""
    plain = {kind: asdict(entry) | {"parts": sorted(entry.parts)} for kind, entry in manifest.items()}
    text = json.dumps(plain | {CHECKSUM_KEY: CHECKSUM_PLACEHOLDER}, indent=0)
    write_atomically(StudyPaths(folder).manifest, with_checksum(text.encode()))


def _read_stored(folder: Path) -> Manifest | None:
    """Return the content of manifest.json, or None if it is missing or damaged."""
    try:
        # Opened each time: a network file system looks for a newer version only then.
        with open(StudyPaths(folder).manifest, "rb") as file:
            found = os.fstat(file.fileno())
            version = (found.st_ino, found.st_mtime_ns, found.st_size)
            known = _decoded.get(folder)
            if known is None or known[0] != version:
                known = _decoded[folder] = version, _decode(file.read())
            return known[1]
    except OSError:  # if it cannot be read now, the same follows from the compacted files
        return None


def _decode(text: bytes) -> Manifest | None:
    if not verify_checksum(text):
        return None
    try:
        manifest = _MANIFEST.validate_python(
            {name: entry for name, entry in json.loads(text).items() if name != CHECKSUM_KEY}
        )
    except (ValueError, AttributeError):
        return None
    named = {kind.name for kind in COMPACTED_KINDS}
    return manifest if named >= manifest.keys() and all(is_safe_name(each.file) for each in manifest.values()) else None
