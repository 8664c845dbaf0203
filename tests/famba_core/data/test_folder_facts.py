"""What is found in an image folder, and what keeps it from being trained on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from famba_core.data.folder_facts import inspect_folder


def write(file, size=(30, 20), colour=(10, 200, 30), mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(file)


def folder(root: Path, splits=("train", "val"), classes=("ant", "bee"), **options) -> Path:
    for split in splits:
        for name in classes:
            for i in range(2):
                write(root / split / name / f"{i}.png", **options)
    return root


def test_splits_classes_sizes_and_formats_are_counted(tmp_path):
    write(folder(tmp_path) / "train" / "bee" / "large.jpg", size=(40, 50))
    (tmp_path / "train" / "notes.txt").write_text("no class")
    facts = inspect_folder(tmp_path)
    assert facts.counts == {"train": {"ant": 2, "bee": 3}, "val": {"ant": 2, "bee": 2}}
    assert facts.sizes == {(30, 20): 8, (40, 50): 1}
    assert facts.formats == {"PNG": 8, "JPEG": 1}
    assert (facts.grey, facts.problems, facts.test_split) == (False, (), "val")


def test_test_folder_is_evaluated_on_only_without_val(tmp_path):
    assert inspect_folder(folder(tmp_path, ("train", "test"))).test_split == "test"
    assert inspect_folder(folder(tmp_path)).test_split == "val"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB"])
def test_grey_images_are_known_in_every_mode(tmp_path, mode):
    assert inspect_folder(folder(tmp_path, colour=(90, 90, 90), mode=mode)).grey


def test_grey_jpeg_with_three_channels_is_grey(tmp_path):
    folder(tmp_path, colour=(90, 90, 90))
    noise = np.random.default_rng(0).integers(0, 256, (50, 50), dtype=np.uint8)
    Image.fromarray(noise).convert("RGB").save(tmp_path / "val" / "ant" / "noise.jpg", quality=50)
    assert inspect_folder(tmp_path).grey


def test_unreadable_images_are_named_together(tmp_path):
    ant = folder(tmp_path) / "train" / "ant"
    (ant / "empty.png").touch()
    (ant / "text.jpg").write_text("hello")
    (ant / "torn.png").write_bytes((ant / "0.png").read_bytes()[:50])
    (problem,) = inspect_folder(tmp_path).problems
    assert problem.startswith("3 images cannot be read; repair or remove: ")
    assert all(name in problem for name in ("empty.png (it is empty)", "text.jpg", "torn.png"))


@pytest.mark.parametrize(
    ("splits", "sentence"),
    [
        (("train",), "val/ (or test/) is missing"),
        (("train", "validation"), "the folders here are train, validation"),
        (("Train", "val"), "train/ is missing"),
    ],
)
def test_missing_split_is_named(tmp_path, splits, sentence):
    (problem,) = inspect_folder(folder(tmp_path, splits)).problems
    assert sentence in problem


def test_every_class_without_images_in_one_split_is_a_problem(tmp_path):
    folder(tmp_path, ("train",), ("ant", "bee", "wasp"))
    folder(tmp_path, ("val",), ("ant", "bee"))
    (tmp_path / "val" / "fly").mkdir()
    text = "\n".join(inspect_folder(tmp_path).problems)
    assert "val has no folder wasp" in text
    assert "train has no folder fly" in text
    assert "val/fly contains no image" in text
