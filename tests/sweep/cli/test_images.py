"""`famba-sweep` and the images: what cannot be trained on is refused before a trial, and a price needs no images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from famba_core.cli import main as famba_train
from sweep.cli.main import main

GRID = """\
study: own
cases: [{strategy: none}, {strategy: upper, start_layer: 6, r: 3}]
profiles:
  mine: {backbone: vim_nano, dataset: imagefolder, data_dir: DIR, image_size: 32, patch_size: 4, epochs: 1,
         warmup_epochs: 1, batch_size: 4, ema: false}
  cifar: {backbone: vim_nano, dataset: cifar100, image_size: 32, patch_size: 4, epochs: 1, warmup_epochs: 1}
"""


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image folder in a home that is not the current folder, which holds a grid."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FAMBA_DATA", raising=False)
    noise = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            folder = tmp_path / "home" / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("grid.yaml").write_text(GRID.replace("DIR", "~/photos"))
    return tmp_path / "home" / "photos"


def run(*options: str) -> int:
    return main(["run", "grid.yaml", "--executor", "in-process", *options])


@pytest.mark.parametrize("damage", ["empty", "text", "torn"])
def test_an_image_that_cannot_be_read_refuses_the_run(
    images: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image = images / "val" / "bee" / "2.png"
    image.write_bytes({"empty": b"", "text": b"hello", "torn": image.read_bytes()[:200]}[damage])
    assert run("--profile", "mine") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("famba-sweep: grid.yaml: profiles.mine.data_dir: 1 image cannot be read: ")
    assert str(image) in error
    assert not list(Path("results").rglob("*.parquet"))
    image.unlink()
    assert run("--profile", "mine", "--limit", "1") == 0


@pytest.mark.parametrize("by", ["grid", "option"])
def test_home_is_expanded(images: Path, by: str, capsys: pytest.CaptureFixture[str]) -> None:
    if by == "option":
        Path("grid.yaml").write_text(GRID.replace("DIR", "nowhere"))
    options = ["--data-dir=~/photos"] if by == "option" else []
    assert main(["plan", "grid.yaml", "--profile", "mine", "--out=~/results", *options]) == 0
    assert run("--profile", "mine", "--limit", "1", "--out=~/results", *options) == 0
    assert list((images.parent / "results" / "own-mine").iterdir())
    assert not Path("~").exists()


def test_an_unknown_home_is_a_folder_that_is_not_there(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "grid.yaml", "--profile", "mine", "--data-dir=~nobody42/photos"]) == 2
    assert "~nobody42/photos (there is no such folder)" in capsys.readouterr().err


def test_files_that_are_left_out_are_said(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "train" / "ant" / "a.heic").write_bytes(b"x")
    said = f"note: files that are not read as images are left out: {images / 'train' / 'ant' / 'a.heic'}"
    assert main(["plan", "grid.yaml", "--profile", "mine"]) == 0
    assert said in capsys.readouterr().out
    train = ["--dataset", "imagefolder", "--data-dir=~/photos", "--backbone", "vim_nano", "--image-size", "32",
             "--patch-size", "8", "--epochs", "1", "--batch-size", "4"]  # fmt: skip
    assert famba_train(train) == 0
    assert said in capsys.readouterr().out


def test_a_batch_larger_than_the_training_set_is_said(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("grid.yaml").write_text(Path("grid.yaml").read_text().replace("batch_size: 4", "batch_size: 9"))
    said = "warning: batch_size 9 is more than the 8 training images: an epoch is one step, of 8 images\n"
    assert main(["plan", "grid.yaml", "--profile", "mine"]) == 0
    assert said in capsys.readouterr().out
    assert run("--profile", "mine", "--limit", "1") == 0
    assert said in capsys.readouterr().out


def test_a_price_needs_no_images_and_a_run_does(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "grid.yaml", "--profile", "cifar"]) == 0
    out = capsys.readouterr().out
    assert "note: cifar100 was not found" in out
    assert "its published sizes count" in out
    assert "2 of 2 trials" in out
    assert "time:" in out
    assert run("--profile", "cifar", "--yes") == 2
    assert "cifar100 was not found" in capsys.readouterr().err
    assert not Path("results").exists()


def test_wrong_labels_are_refused_before_training(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("data/cifar100")
    folder.mkdir(parents=True)
    cells = [{"bytes": (images / "train" / "ant" / f"{i}.png").read_bytes()} for i in range(4)]
    for split, labels in (("train", [0, 1, 2, 3]), ("test", [0, 1, -1, 3])):
        pq.write_table(pa.table({"img": cells, "fine_label": labels}), folder / f"{split}-00000-of-00001.parquet")
    for command in (["plan", "grid.yaml"], ["run", "grid.yaml", "--executor", "in-process"]):
        assert main([*command, "--profile", "cifar"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "test-00000-of-00001.parquet: column fine_label must hold whole numbers from 0 to 99, not -1" in error
    assert famba_train(["--image-size", "32", "--patch-size", "4"]) == 2
    assert "column fine_label" in capsys.readouterr().err
