"""Arrays that are slow to make from files, kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def cached_arrays(name: str, files: Sequence[Path], build: Callable[[], Arrays]) -> Arrays:
    """What `build` makes of `files`, read from the cache where it holds it for just these files.

    A file counts as the same while its path, size and modification time stay. A damaged entry is built again (the
    archive carries checksums), and a folder that cannot be written only costs time.
    """
    entry = _cache_folder() / f"{name}-{_fingerprint(files)}.npz"
    with contextlib.suppress(OSError, ValueError, EOFError, zipfile.BadZipFile), np.load(entry) as stored:
        return dict(stored)
    arrays = build()
    with contextlib.suppress(OSError):
        _write(entry, arrays)
    return arrays


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "famba-sweep"


def _fingerprint(files: Sequence[Path]) -> str:
    facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _write(entry: Path, arrays: Arrays) -> None:
    """Atomic: another process sees the whole entry or none."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=entry.parent) as folder:
        new = Path(folder, entry.name)
        np.savez(new, allow_pickle=False, **arrays)
        os.replace(new, entry)
