"""The file that holds the state of a run. A crash at any moment leaves it whole, or leaves the one before."""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from famba_core.files import write_atomically

# What zipfile and torch raise for a damaged file. OSError is not among them: the file may be whole then.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, NotImplementedError, pickle.UnpicklingError, EOFError, RuntimeError, ValueError,
)  # fmt: skip


def write(file: Path, state: Mapping[str, Any]) -> None:
    """Replace the file. Raises OSError, for example for a full disk; the file before is unchanged then."""
    content = io.BytesIO()  # writing straight to a file, torch turns the OSError of a full disk into a RuntimeError
    torch.save(dict(state), content)
    write_atomically(file, content.getbuffer())


def read(file: Path) -> Any:
    """Return the file's content, on the CPU, or None if there is no file.

    A damaged file is renamed, with a warning, and counts as no file.
    """
    if not file.exists():
        return None
    try:
        with zipfile.ZipFile(file) as archive:  # torch writes checksums but does not verify them
            if damaged_entry := archive.testzip():
                raise zipfile.BadZipFile(damaged_entry)
        return torch.load(file, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        damaged = file.with_suffix(".damaged")
        os.replace(file, damaged)
        warnings.warn(f"{damaged} cannot be read ({type(error).__name__}); the run starts again", stacklevel=3)
        return None
