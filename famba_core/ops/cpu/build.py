"""The shared library of the C++ kernels: built once on each machine, then loaded from the cache."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from famba_core.files import cache_folder, write_atomically

SOURCE = Path(__file__).with_name("kernels") / "kernels.cpp"
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared", "-std=c++17", "-Wno-psabi")


@functools.cache
def library() -> ctypes.CDLL | str:
    """Return the kernels, or a sentence that says why this machine cannot have them, which is also printed once.

    The build takes seconds. It is stored in the user's cache folder under a hash of the source, the flags, the
    compiler and the processor, so a new version or another kind of machine gets its own.
    """
    try:
        return _load()
    except _NoKernels as reason:
        print(f"famba: no C++ kernels; plain PyTorch is used, several times slower: {reason}", file=sys.stderr)
        return str(reason)


class _NoKernels(Exception):
    """Reason why the kernels cannot be built or loaded."""


def _load() -> ctypes.CDLL:
    compiler = shlex.split(os.environ.get("CXX", "")) or [shutil.which("g++") or shutil.which("clang++") or ""]
    if not compiler[0]:
        raise _NoKernels("no C++ compiler (g++ or clang++) was found")
    try:
        version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
        sources = [path.read_text() for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]
        identity = "\n".join((*sources, *FLAGS, version, platform.machine(), _processor()))
    except (OSError, subprocess.CalledProcessError) as error:
        raise _NoKernels(f"the C++ compiler does not run ({error})") from error
    name = f"kernels-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    try:
        built = _writable_folder() / name
        with contextlib.suppress(OSError):  # it does not exist yet, or is damaged
            return ctypes.CDLL(str(built))
        _build(compiler, built)
        return ctypes.CDLL(str(built))
    except subprocess.CalledProcessError as error:
        raise _NoKernels(
            f"{shlex.join(compiler)} could not build the kernels ({error.stderr.strip() or error})"
        ) from error
    except OSError as error:
        raise _NoKernels(f"the kernels cannot be stored or loaded ({error})") from error


def _writable_folder() -> Path:
    """Return the cache folder, or if that cannot be written, a temporary folder of this process."""
    folder = cache_folder()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="famba-sweep-"))


def _build(compiler: list[str], target: Path) -> None:
    print("famba: building the CPU kernels for this machine, once (a few seconds)", file=sys.stderr)
    # several processes may build concurrently, each in a folder of its own
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder, target.name)
        subprocess.run([*compiler, *FLAGS, str(SOURCE), "-o", str(built)], capture_output=True, text=True, check=True)
        write_atomically(target, built.read_bytes())


def _processor() -> str:
    """Return the processor's model and instruction sets, which decide what -march=native compiles."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
