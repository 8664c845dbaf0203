"""Checks whether a node can run a study's jobs: it must see the study's folder and have the driver's code.

The rows of a worker that trains into another folder of the same name would be lost silently.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from sweep.files.code import code_hash, find_other_code
from sweep.store.layout import StudyPaths

READ_TIMEOUT_S = 4.0  # a network file system may show a new file late, or fail for a moment


@dataclass(frozen=True, kw_only=True)
class NodeCheck:
    """The result of checking one node."""

    gpu_memory_mib: float | None = None  # of its smallest GPU; None without a GPU, or if it is unknown
    problem: str | None = None  # why it must not get jobs; None if it passed


@dataclass(frozen=True, kw_only=True)
class FolderProbe:
    """A token file in the study's folder; a node passes if it can read it there."""

    file: Path  # new for each run, because a network file system may cache the contents of an old one
    token: str  # the file's contents
    code_hash: str  # of the driver's program

    @property
    def folder(self) -> Path:
        return self.file.parent

    @classmethod
    def create(cls, folder: Path) -> FolderProbe:
        """Write the token file. Raises OSError."""
        paths = StudyPaths(folder)
        for old in folder.glob(paths.node_check("*").name):  # left by killed runs
            old.unlink(missing_ok=True)
        file, token = paths.node_check(secrets.token_hex(8)), secrets.token_hex(16)
        file.write_text(token)
        return cls(file=file, token=token, code_hash=code_hash())

    def restore(self) -> None:
        """Write the token file again if it was deleted; without it no node would pass."""
        with contextlib.suppress(OSError):
            if not self.file.exists():
                self.file.write_text(self.token)

    def find_problem(self) -> str | None:
        """Return why the machine that this runs on must not run jobs, or None."""
        if not _holds(self.file, self.token):
            return (
                f"the machine does not see {self.folder}: --out must be a folder that all machines share under one "
                "path (this machine has another folder there, or none)"
            )
        return find_other_code(self.code_hash)

    def answer(self, node_id: str) -> str | None:
        """Return why the node that this runs on must not run jobs, or write a file that the driver must see."""
        if problem := self.find_problem():
            return problem
        try:
            self._answer_file(node_id).write_text(self.token)
        except OSError as error:
            return f"the machine cannot write to {self.folder}: {error.strerror}"
        return None

    def collect_answer(self, node_id: str) -> bool:
        """True if the driver sees the node's file; deletes it."""
        answered = _holds(self._answer_file(node_id), self.token)
        with contextlib.suppress(OSError):
            self._answer_file(node_id).unlink()
        return answered

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.file.unlink(missing_ok=True)

    def _answer_file(self, node_id: str) -> Path:
        return self.file.with_name(f"{self.file.name}-{node_id}")


def _holds(file: Path, token: str) -> bool:
    """True if the file holds the token. Waits for a file that cannot be read."""
    end = time.monotonic() + READ_TIMEOUT_S
    while True:
        with contextlib.suppress(OSError):
            return file.read_text() == token
        if time.monotonic() > end:
            return False
        time.sleep(0.2)


def check_node(probe: FolderProbe, node_id: str, with_gpu: bool) -> NodeCheck:
    """Check the node that this runs on."""
    if problem := probe.answer(node_id):
        return NodeCheck(problem=problem)
    return NodeCheck(gpu_memory_mib=read_gpu_memory_mib() if with_gpu else None)


def read_gpu_memory_mib() -> float | None:
    """Return the memory of the smallest GPU here, or None without a GPU.

    Asks the CUDA driver's library, because torch takes seconds to import and leaves a context on the GPU.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # Ray hides all GPUs from a task that requests none
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
