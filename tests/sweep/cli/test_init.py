"""`famba-sweep init` on folders as a new user has them: what it says, what it writes, and that this runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sweep
from sweep.cli.main import main


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 24 training and 8 validation images, in a current folder that is otherwise empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    noise = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for name in ("ant", "bee"):
            folder = tmp_path / "my ants" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(noise.integers(0, 256, (8 + i, 10, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "my ants"


def test_a_folder_is_described_and_its_grid_plans_and_runs(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "my ants"]) == 0
    said = capsys.readouterr().out
    for part in ("24 images in 2 classes, 12 in each", "PNG (32)", "time:", "famba-sweep my_ants.yaml --yes",
                 "class ant has 12 training images", "val/ has 8 images", "images have 12 sizes"):  # fmt: skip
        assert part in said
    assert all(len(line) <= 80 for line in said.splitlines()), said

    grid = Path("my_ants.yaml")
    assert main(["plan", str(grid)]) == 0
    assert "15 of 15 trials" in capsys.readouterr().out
    grid.write_text(grid.read_text().replace("epochs: 50", "epochs: 1").replace("warmup_epochs: 5", "warmup_epochs: 1"))
    assert main(["run", str(grid), "--executor", "in-process", "--limit", "2"]) == 0
    rows = sweep.load_results(Path("results/my_ants-mine"))
    assert list(rows["status"]) == ["completed"] * 2


def test_files_left_out_are_named_among_the_notes(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "train" / "ant" / "readme.txt").touch()
    assert main(["init", "my ants"]) == 0
    notes, rest = capsys.readouterr().out.split("my_ants.yaml is written")
    assert "readme.txt" in notes
    assert "note:" not in rest


def test_uneven_classes_and_a_single_one_are_noted(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in sorted((images / "train" / "bee").iterdir())[2:]:
        file.unlink()
    assert main(["init", "my ants"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "class ant has 12 training images and bee 2; naming the largest class every time gives a top-1 of 50 %" in said
    )
    for split in ("train", "val"):
        shutil.rmtree(images / split / "bee")
    assert main(["init", "my ants", "--force"]) == 0
    assert "ant is the only class: there is nothing to tell apart" in capsys.readouterr().out


def test_a_file_is_replaced_only_if_asked(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = Path("mine.yaml")
    grid.write_text("precious")
    assert main(["init", str(images), "mine.yaml"]) == 2
    assert "mine.yaml: exists already; --force replaces it" in capsys.readouterr().err
    assert grid.read_text() == "precious"
    assert main(["init", str(images), "mine.yaml", "--force"]) == 0
    assert grid.read_text() != "precious"


def test_every_problem_of_a_folder_is_said_and_nothing_is_written(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "val" / "bee").rename(images / "val" / "wasp")
    (images / "train" / "ant" / "empty.png").touch()
    assert main(["init", "my ants"]) == 2
    said = capsys.readouterr()
    assert "25 images in 2 classes" in said.out
    sentences = said.err.splitlines()
    assert len(sentences) == 3
    assert all(sentence.startswith("famba-sweep: my ants: ") for sentence in sentences)
    assert list(Path().glob("*.yaml")) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "nothing: there is no such folder"),
        (["file"], "file: is not a folder"),
        (["my ants", "none/grid.yaml"], "none/grid.yaml: cannot be written: No such file or directory"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    images: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    assert main(["init", *arguments]) == 2
    assert capsys.readouterr().err == f"famba-sweep: {sentence}\n"


def test_a_path_that_a_grid_cannot_hold_is_refused(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images.rename(images.with_name("ants\udcff"))  # a byte that is not UTF-8
    assert main(["init", "ants\udcff"]) == 2
    assert "a path that is not text in UTF-8 cannot be written into a grid" in capsys.readouterr().err
    assert list(Path().glob("*.yaml")) == []
