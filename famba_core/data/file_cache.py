"""What is computed from the files of a data set: arrays and fingerprints, stored in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from famba_core.config import ConfigError
from famba_core.files import cache_folder, write_atomically

HASH_DIGITS = 16  # hexadecimal

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


def fingerprint_files(files: Sequence[Path]) -> str:
    """Return the fingerprint of the bytes of files in this order; the names do not matter.

    The checksums are cached while path, size and modification time of the files stay the same. Raises ConfigError if
    a file cannot be read.
    """
    try:
        stored = cached_arrays("fingerprint", files, lambda: {"sha256": np.array([_sha256(file) for file in files])})
    except OSError as error:
        raise ConfigError.of("dataset", f"{error.filename} cannot be read: {error.strerror}") from error
    return fingerprint_strings(stored["sha256"].tolist())


def fingerprint_strings(strings: Iterable[str]) -> str:
    """Return the fingerprint of strings in this order."""
    return hashlib.sha256("\0".join(strings).encode("utf-8", "surrogateescape")).hexdigest()[:HASH_DIGITS]


def _identity(files: Sequence[Path]) -> str:
    stats = [
        (os.path.abspath(file), file.stat()) for file in files
    ]  # resolving links would take seconds for a large set
    facts = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:HASH_DIGITS]


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
