"""manifest.json: which parts a compacted file stands for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sweep.errors import Problem, UserError
from sweep.names import is_plain

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """The file that holds the rows of many parts."""

    file: str  # in the folder compacted/
    rows: int
    parts: frozenset[str]  # names of the parts


Manifest = Mapping[str, Compacted]  # by the kind's name
_MANIFEST = TypeAdapter(Manifest)
# The last one decoded of each study, with the inode, time and size of its file: decoding thousands of names for each
# part that is looked for would take most of the time.
_decoded: dict[Path, tuple[tuple[int, int, int], Manifest]] = {}


def read_manifest(folder: Path) -> Manifest:
    """What has been compacted. Raises UserError for a damaged manifest: nobody can say which rows it named."""
    try:
        with open(folder / MANIFEST, "rb") as file:  # a network's file system looks for a new one when it is opened
            found = os.fstat(file.fileno())
            version = (found.st_ino, found.st_mtime_ns, found.st_size)
            known = _decoded.get(folder)
            if known is None or known[0] != version:
                known = _decoded[folder] = version, _decode(folder, file.read())
            return known[1]
    except (FileNotFoundError, NotADirectoryError):  # the latter is reported where the parts are looked for
        return {}


def manifest_text(manifest: Manifest) -> bytes:
    plain = {kind: asdict(entry) | {"parts": sorted(entry.parts)} for kind, entry in manifest.items()}
    return json.dumps(plain, indent=0).encode()


def _decode(folder: Path, text: bytes) -> Manifest:
    try:
        manifest = _MANIFEST.validate_json(text)
        if not all(is_plain(entry.file) for entry in manifest.values()):
            raise ValueError("it names a file elsewhere")
    except ValueError as error:
        detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        sentence = f"is damaged: {detail}; restore it from a copy, or remove it: what was compacted then runs again"
        raise UserError([Problem(str(folder), MANIFEST, sentence)]) from error
    return manifest
