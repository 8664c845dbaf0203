"""Whether a machine can run a study's jobs: it must see the study's folder, and have the same program.

A worker that trained into another folder of the same name would lose its rows without a word.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from famba_core import semantics

PREFIX = ".node-check-"
PATIENCE_S = 4.0  # with a network's file system that has a fault, or is late


@dataclass(frozen=True, kw_only=True)
class FolderProbe:
    """What the driver's machine has left in the study's folder, for others to find."""

    folder: Path
    name: str  # of the file; new for each run, because a network's file system may remember an old one
    token: str  # what it holds
    version: str  # of the driver's program

    @classmethod
    def leave(cls, folder: Path) -> FolderProbe:
        """Write the file. Raises OSError."""
        for old in folder.glob(f"{PREFIX}*"):  # of runs that were killed
            old.unlink(missing_ok=True)
        name, token = PREFIX + secrets.token_hex(8), secrets.token_hex(16)
        mark = cls(folder=folder, name=name, token=token, version=program_version())
        (folder / mark.name).write_text(mark.token)
        return mark

    def renew(self) -> None:
        """Write the file again where somebody has removed it: no machine would pass another check."""
        with contextlib.suppress(OSError):
            if not (self.folder / self.name).exists():
                (self.folder / self.name).write_text(self.token)

    def problem(self) -> str | None:
        """Why jobs that run on this machine would store nothing, or what another program makes of them."""
        if not _holds(self.folder / self.name, self.token):
            return (
                f"does not see {self.folder}: --out must be a folder that all machines share, under one path "
                "(what lies there is another folder, or nothing)"
            )
        if (here := program_version()) != self.version:
            return f"has another version than the driver's machine ({here}; {self.version}): install the same on all"
        return None

    def answer(self, node_id: str) -> str | None:
        """Why this machine cannot run the study's jobs; leaves a file that the driver's machine must then see."""
        if problem := self.problem():
            return problem
        try:
            self._answer_file(node_id).write_text(self.token)
        except OSError as error:
            return f"cannot write to {self.folder}: {error.strerror}"
        return None

    def is_answered(self, node_id: str) -> bool:
        """On the driver's machine: whether the node's file is there. Removes it."""
        answered = _holds(self._answer_file(node_id), self.token)
        with contextlib.suppress(OSError):
            self._answer_file(node_id).unlink()
        return answered

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            (self.folder / self.name).unlink(missing_ok=True)

    def _answer_file(self, node_id: str) -> Path:
        return self.folder / f"{self.name}-{node_id}"


def _holds(file: Path, token: str) -> bool:
    end = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError):
            return file.read_text() == token
        if time.monotonic() > end:
            return False
        time.sleep(0.2)


def program_version() -> str:
    """Of what a worker runs, as far as its results depend on it."""
    try:
        installed = importlib.metadata.version("famba-sweep")
    except importlib.metadata.PackageNotFoundError:  # it runs from its sources
        installed = "not installed"
    return f"famba-sweep {installed}, semantics {semantics.VERSION}"


def gpu_memory_mib() -> float | None:
    """Of the smallest GPU here; None without one.

    Asks the driver's library: torch would take seconds to import, and leave a context on the GPU.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # so Ray hides all from a task that asks for none
        del os.environ["CUDA_VISIBLE_DEVICES"]
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, device, size = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return None
    sizes = []
    for index in range(count.value):
        cuda.cuDeviceGet(ctypes.byref(device), index)
        cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        sizes.append(size.value / 2**20)
    return min(sizes, default=None)
