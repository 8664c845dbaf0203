"""The hash of the sources: what changes it, and what does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sweep.files import code


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of both packages, which the hash is taken of."""
    for package in code.PACKAGES:
        shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGES", [tmp_path / package.name for package in code.PACKAGES])
    return tmp_path


def test_a_copy_has_the_hash_of_its_original(copy: Path) -> None:
    (copy / "sweep/__pycache__").mkdir()
    (copy / "sweep/__pycache__/errors.cpython-311.pyc").write_bytes(b"compiled")
    (copy / "sweep/._errors.py").write_bytes(b"\0")
    assert code.code_hash.__wrapped__() == code.code_hash()


@pytest.mark.parametrize(
    "file", ["sweep/worker/rows.py", "famba_core/training/evaluate.py", "famba_core/ops/cpu/kernels/scan.h"]
)
def test_every_change_of_a_source_changes_the_hash(copy: Path, file: str) -> None:
    source = copy / file
    with source.open("a") as lines:
        lines.write("\n")
    changed = code.code_hash.__wrapped__()
    assert changed != code.code_hash()
    source.rename(source.with_stem("another"))
    assert code.code_hash.__wrapped__() not in (changed, code.code_hash())
