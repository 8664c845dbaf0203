"""Builds the C++ kernels once for this machine, and loads them."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("cpu.cpp")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared", "-std=c++17", "-Wno-psabi")


@functools.cache
def library() -> ctypes.CDLL | str:
    """The kernels, or a sentence that says why this machine cannot have them.

    The build takes seconds and is kept in the user's cache folder under a hash of the source, the flags, the compiler
    and the processor, so a new version or another kind of machine builds its own.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return "no C++ compiler (g++ or clang++) was found"
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        return f"the C++ compiler {compiler} does not run ({error})"
    identity = "\n".join((SOURCE.read_text(), *FLAGS, version, platform.machine(), _processor()))
    name = f"scan-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    for folder in _cache_folders():
        built = folder / name
        try:
            if not built.exists():
                folder.mkdir(parents=True, exist_ok=True)
                _build(compiler, built)
            return ctypes.CDLL(str(built))
        except subprocess.CalledProcessError as error:
            return f"{compiler} could not build the kernels ({error.stderr.strip() or error})"
        except OSError:
            continue  # a folder that cannot be written, or holds programs that may not run
    return "no folder for the built kernels can be written"


def _build(compiler: str, target: Path) -> None:
    print("famba: building the CPU kernels for this machine, once (a few seconds)", file=sys.stderr)
    # renamed when complete: several processes may build at the same time
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(temporary)]
        subprocess.run(command, capture_output=True, text=True, check=True)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _cache_folders() -> tuple[Path, ...]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "famba-sweep", Path(tempfile.gettempdir()) / f"famba-sweep-{os.getuid()}"


def _processor() -> str:
    """What -march=native sees of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
