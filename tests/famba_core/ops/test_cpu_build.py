"""The build of the C++ kernels: reasons why it fails, the cache, and concurrent builds."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from backends import needs_kernels

from famba_core.ops.cpu import build


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a source that compiles quickly."""
    source = tmp_path / "tiny.cpp"
    source.write_text('extern "C" int famba_answer() { return 42; }')
    monkeypatch.setattr(build, "SOURCE", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path / "cache" / "famba-sweep"


def compiler(folder: Path, script: str) -> str:
    """Return the path of a script that acts as the compiler; it calls the real one as "$REAL"."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\nREAL={os.environ.get('CXX') or 'c++'}\n{script}\n")
    path.chmod(0o755)
    return str(path)


def answer(kernels: ctypes.CDLL | str) -> int:
    assert isinstance(kernels, ctypes.CDLL), kernels
    return int(kernels.famba_answer())


def test_missing_compiler_is_named(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert build.library.__wrapped__() == "no C++ compiler (g++ or clang++) was found"


def test_broken_compiler_is_reported(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert build.library.__wrapped__().startswith("the C++ compiler does not run (")


def test_failed_build_is_reported(cache, tmp_path, monkeypatch, capfd):
    broken = compiler(
        tmp_path, '[ "$1" = --version ] && exec "$REAL" --version; echo "no such instruction" >&2; exit 1'
    )
    monkeypatch.setenv("CXX", broken)
    assert build.library.__wrapped__() == f"{broken} could not build the kernels (no such instruction)"
    assert list(cache.iterdir()) == []


@needs_kernels
def test_build_is_cached(cache, tmp_path, monkeypatch, capfd):
    counting = compiler(tmp_path, f'[ "$1" = --version ] || echo built >> {tmp_path}/builds; exec "$REAL" "$@"')
    monkeypatch.setenv("CXX", counting)
    for _ in range(3):
        assert answer(build.library.__wrapped__()) == 42
    assert (tmp_path / "builds").read_text() == "built\n"
    assert capfd.readouterr().err.count("once (a few seconds)") == 1

    # another source is built as well; the first build stays
    build.SOURCE.write_text('extern "C" int famba_answer() { return 43; }')
    assert answer(build.library.__wrapped__()) == 43
    assert len(list(cache.iterdir())) == 2


@needs_kernels
def test_damaged_build_is_built_again(cache):
    build.library.__wrapped__()
    (built,) = cache.iterdir()
    built.unlink()  # the loaded library keeps its file
    built.write_bytes(b"not a library")
    assert answer(build.library.__wrapped__()) == 42


@needs_kernels
def test_build_works_without_a_writable_cache(cache, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert answer(build.library.__wrapped__()) == 42
    assert list(tmp_path.glob("famba-sweep-*/kernels-*.so")), "not in a temporary folder of the process"


@needs_kernels
def test_two_processes_build_concurrently(cache, tmp_path, monkeypatch):
    slow = compiler(
        tmp_path,
        # the compiler waits until both processes are compiling
        f'[ "$1" = --version ] && exec "$REAL" --version\n"$REAL" "$@" || exit 1\ntouch {tmp_path}/at-work.$$\n'
        f"for _ in $(seq 600); do [ $(ls {tmp_path} | grep -c at-work) -ge 2 ] && exit 0; sleep 0.1; done; exit 1",
    )
    program = (
        "import sys, pathlib; from famba_core.ops.cpu import build; build.SOURCE = pathlib.Path(sys.argv[1]); "
        "print(build.library().famba_answer())"
    )
    environment = os.environ | {"CXX": slow}
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(build.SOURCE)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert [builder.communicate(timeout=120)[0] for builder in builders] == ["42\n", "42\n"]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert len(list(cache.iterdir())) == 1
