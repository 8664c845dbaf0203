"""The hash of this program's sources, by which drivers, workers and stored rows tell whether they ran the same code."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import famba_core

PACKAGES = (Path(famba_core.__file__).parent, Path(__file__).parents[1])  # as this process has imported them
SOURCES = (".py", ".cpp", ".h")  # Python, and the kernels that are compiled on the machine


@functools.cache
def code_hash() -> str:
    """Return the hash of both packages' sources: 16 hexadecimal digits.

    The files are read once, when a process first asks: what is changed later is not what the process has imported.
    """
    digest = hashlib.sha256()
    for package in PACKAGES:
        for file in sorted(package.rglob("*")):
            if file.suffix in SOURCES and not file.name.startswith("."):
                content = file.read_bytes()
                digest.update(f"{package.name}/{file.relative_to(package).as_posix()} {len(content)}\n".encode())
                digest.update(content)
    return digest.hexdigest()[:16]


def find_other_code(expected: str) -> str | None:
    """Return the sentence that says that this process has imported other code than the driver; None if it has not."""
    if (here := code_hash()) == expected:
        return None
    return (
        f"the machine has other code in {PACKAGES[1].parent} (hash {here}) than the driver (hash {expected}): install "
        "the same version on all machines, and start the run again if its code was changed meanwhile"
    )
