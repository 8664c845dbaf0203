"""Names the content of a data set, wherever its files lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from famba_core.config import ConfigError
from famba_core.data.cache import cached_arrays

LENGTH = 16  # hexadecimal digits


def of_contents(files: Sequence[Path]) -> str:
    """Of the bytes of files, in this order; their names are no part of it.

    A second call finds it in the cache while path, size and modification time of the files stay. Raises ConfigError
    where one cannot be read.
    """
    try:
        stored = cached_arrays("fingerprint", files, lambda: {"sha256": np.array([_sha256(file) for file in files])})
    except OSError as error:
        raise ConfigError([("dataset", f"{error.filename} cannot be read: {error.strerror}")]) from error
    return of_words(stored["sha256"].tolist())


def of_words(words: Iterable[str]) -> str:
    """Of words in this order."""
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:LENGTH]


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
