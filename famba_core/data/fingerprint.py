"""Fingerprints of data sets: they depend on the content, not on where the files are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from famba_core.config import ConfigError
from famba_core.data.cache import cached_arrays

LENGTH = 16  # hexadecimal digits


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
    return hashlib.sha256("\0".join(strings).encode("utf-8", "surrogateescape")).hexdigest()[:LENGTH]


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
