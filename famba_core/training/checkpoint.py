"""The file that holds the state of a run: whole, or the one before, whenever the process or the machine dies."""

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

# What a damaged file makes zipfile and torch raise. No OSErrors: the file may be whole then.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, NotImplementedError, pickle.UnpicklingError, EOFError, RuntimeError, ValueError,
)  # fmt: skip


def write(file: Path, state: Mapping[str, Any]) -> None:
    """Replace the file. Raises OSErrors as they come, such as that of a full disk, and leaves the one before then."""
    content = io.BytesIO()  # straight into a file torch would turn the OSError of a full disk into a RuntimeError
    torch.save(dict(state), content)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb", buffering=0) as stream:
            left = content.getbuffer()
            while left:
                left = left[stream.write(left) :]
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(file: Path) -> Any:
    """What the file holds, on the CPU; None if there is none, or it is damaged, which is told, and it is set aside."""
    if not file.exists():
        return None
    try:
        with zipfile.ZipFile(file) as archive:  # torch writes checksums, and does not look at them
            if damaged_entry := archive.testzip():
                raise zipfile.BadZipFile(damaged_entry)
        return torch.load(file, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        damaged = file.with_suffix(".damaged")
        os.replace(file, damaged)
        warnings.warn(f"{damaged} cannot be read ({type(error).__name__}); the run starts again", stacklevel=3)
        return None
