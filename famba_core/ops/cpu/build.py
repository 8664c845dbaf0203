"""Builds the C++ kernels once for this machine, and loads them."""

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

SOURCE = Path(__file__).with_name("kernels") / "kernels.cpp"
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared", "-std=c++17", "-Wno-psabi")


@functools.cache
def library() -> ctypes.CDLL | str:
    """The kernels, or a sentence that says why this machine cannot have them, which is also printed once.

    The build takes seconds and is kept in the user's cache folder under a hash of the source, the flags, the compiler
    and the processor, so a new version or another kind of machine builds its own.
    """
    try:
        return _load()
    except _NoKernels as reason:
        print(f"famba: no C++ kernels, so plain PyTorch computes, several times slower: {reason}", file=sys.stderr)
        return str(reason)


class _NoKernels(Exception):
    pass


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
        built = _cache_folder() / name
        with contextlib.suppress(OSError):  # not there yet, or damaged
            return ctypes.CDLL(str(built))
        _build(compiler, built)
        return ctypes.CDLL(str(built))
    except subprocess.CalledProcessError as error:
        raise _NoKernels(f"{shlex.join(compiler)} could not build them ({error.stderr.strip() or error})") from error
    except OSError as error:
        raise _NoKernels(f"they cannot be stored or loaded ({error})") from error


def _cache_folder() -> Path:
    """The user's cache, or where that cannot be written a folder that only this process knows."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "famba-sweep"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="famba-sweep-"))


def _build(compiler: list[str], target: Path) -> None:
    print("famba: building the CPU kernels for this machine, once (a few seconds)", file=sys.stderr)
    # renamed when complete: several processes may build at the same time
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        command = [*compiler, *FLAGS, str(SOURCE), "-o", str(temporary)]
        subprocess.run(command, capture_output=True, text=True, check=True)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _processor() -> str:
    """What -march=native sees of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
