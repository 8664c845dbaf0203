"""Arrays that are slow to compute from files, stored in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from famba_core.files import cache_folder, write_atomically

Arrays = dict[str, np.ndarray[Any, Any]]


def cached_arrays(name: str, files: Sequence[Path], build: Callable[[], Arrays]) -> Arrays:
    """Return the arrays that `build` makes of `files`, from the cache if it has them for these very files.

    A file counts as unchanged while its path, size and modification time are. A damaged entry is built again (the
    archive has checksums). If the folder cannot be written, only time is lost.
    """
    entry = cache_folder() / f"{name}-{_identity(files)}.npz"
    with contextlib.suppress(OSError, ValueError, EOFError, zipfile.BadZipFile), np.load(entry) as stored:
        return dict(stored)
    arrays = build()
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(entry, content.getbuffer())
    return arrays


def _identity(files: Sequence[Path]) -> str:
    facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
