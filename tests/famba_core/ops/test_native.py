"""Building the C++ kernels: what is missing becomes a sentence, what is built is kept, builders keep apart."""

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
    """An empty cache, and a source that compiles at once."""
    source = tmp_path / "tiny.cpp"
    source.write_text('extern "C" int famba_answer() { return 42; }')
    monkeypatch.setattr(build, "SOURCE", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path / "cache" / "famba-sweep"


def compiler(folder: Path, script: str) -> str:
    """A program that stands in for the compiler; it calls the real one as "$REAL"."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\nREAL={os.environ.get('CXX') or 'c++'}\n{script}\n")
    path.chmod(0o755)
    return str(path)


def answer(kernels: ctypes.CDLL | str) -> int:
    assert isinstance(kernels, ctypes.CDLL), kernels
    return int(kernels.famba_answer())


def test_no_compiler(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert build.library.__wrapped__() == "no C++ compiler (g++ or clang++) was found"


def test_a_compiler_that_does_not_run(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert build.library.__wrapped__().startswith("the C++ compiler does not run (")


def test_a_compiler_that_fails(cache, tmp_path, monkeypatch, capfd):
    broken = compiler(
        tmp_path, '[ "$1" = --version ] && exec "$REAL" --version; echo "no such instruction" >&2; exit 1'
    )
    monkeypatch.setenv("CXX", broken)
    assert build.library.__wrapped__() == f"{broken} could not build them (no such instruction)"
    assert list(cache.iterdir()) == []


@needs_kernels
def test_a_build_is_kept(cache, tmp_path, monkeypatch, capfd):
    counting = compiler(tmp_path, f'[ "$1" = --version ] || echo built >> {tmp_path}/builds; exec "$REAL" "$@"')
    monkeypatch.setenv("CXX", counting)
    for _ in range(3):
        assert answer(build.library.__wrapped__()) == 42
    assert (tmp_path / "builds").read_text() == "built\n"
    assert capfd.readouterr().err.count("once (a few seconds)") == 1

    # another source is another build, beside the first
    build.SOURCE.write_text('extern "C" int famba_answer() { return 43; }')
    assert answer(build.library.__wrapped__()) == 43
    assert len(list(cache.iterdir())) == 2


@needs_kernels
def test_a_damaged_build_does_not_stop_the_next_one(cache):
    build.library.__wrapped__()
    (built,) = cache.iterdir()
    built.unlink()  # the library in use keeps its own file
    built.write_bytes(b"not a library")
    assert answer(build.library.__wrapped__()) == 42


@needs_kernels
def test_a_cache_that_cannot_be_written(cache, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert answer(build.library.__wrapped__()) == 42
    assert list(tmp_path.glob("famba-sweep-*/kernels-*.so")), "in a folder of this process alone"


@needs_kernels
def test_two_processes_may_build_at_once(cache, tmp_path, monkeypatch):
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
