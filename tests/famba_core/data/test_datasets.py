"""The digits, subsets of a training set, and the libraries that loading imports."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import famba_core.data
from famba_core.config import ConfigError, DataConfig
from famba_core.data.datasets import choose_subset, describe_dataset, load_dataset


def test_digits_contain_every_image_once_with_its_label():
    from sklearn.datasets import load_digits

    data = load_dataset(DataConfig(dataset="digits"), image_size=8)
    assert data.train.images.shape == (1437, 3, 8, 8)
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels.dtype == torch.int64
    raw = load_digits()
    expected = sorted(
        (bytes(np.floor(image * 255 / 16 + 0.5).astype(np.uint8)), int(label))
        for image, label in zip(raw.images, raw.target, strict=True)
    )
    found = [
        (bytes(image[channel].numpy()), int(label))
        for channel in [0]
        for split in (data.train, data.test)
        for image, label in zip(split.images, split.labels, strict=True)
    ]
    assert sorted(found) == expected
    assert int(data.train.images.max()) == 255
    for channel in (1, 2):
        assert torch.equal(data.train.images[:, channel], data.train.images[:, 0])


def test_digits_test_split_is_balanced_and_independent_of_the_seed():
    config = DataConfig(dataset="digits", train_images=100)
    first, second = (load_dataset(config, image_size=8, seed=seed) for seed in (0, 1))
    assert first.test.labels.bincount().tolist() == [36] * 10
    assert torch.equal(first.test.images, second.test.images)
    assert not torch.equal(first.train.images, second.train.images)
    assert first.train.labels.bincount().tolist() == [10] * 10


def test_a_part_of_the_test_split_is_balanced_and_the_same_for_every_seed():
    config = DataConfig(dataset="digits", test_images=53)
    first, second = (load_dataset(config, image_size=8, seed=seed).test for seed in (0, 1))
    assert sorted(first.labels.bincount().tolist()) == [5] * 7 + [6] * 3
    assert torch.equal(first.images, second.images)
    whole = load_dataset(DataConfig(dataset="digits"), image_size=8).test
    everything = {bytes(image.numpy()) for image in whole.images}
    assert all(bytes(image.numpy()) in everything for image in first.images)
    with pytest.raises(ConfigError, match="test_images: must be at most 360, the size of the test set of digits"):
        describe_dataset(DataConfig(dataset="digits", test_images=361))


def test_digits_description_agrees_with_the_loaded_set():
    for train_images, test_images in ((None, None), (64, None), (None, 30)):
        config = DataConfig(dataset="digits", train_images=train_images, test_images=test_images)
        info, data = describe_dataset(config), load_dataset(config, image_size=8)
        assert (info.num_classes, info.train_images, info.test_images) == (
            data.num_classes,
            len(data.train.labels),
            len(data.test.labels),
        )


@pytest.mark.parametrize("size", [1, 9, 10, 57, 299])
def test_subset_is_balanced_seeded_and_inside_every_larger_one(size):
    labels = torch.arange(300) % 10
    subset = choose_subset(labels, size, seed=3)
    assert len(set(subset.tolist())) == size
    assert torch.equal(subset, subset.sort().values)
    counts = labels[subset].bincount(minlength=10)
    assert counts.max() - counts.min() <= 1
    assert torch.equal(subset, choose_subset(labels, size, seed=3))
    assert set(subset.tolist()) <= set(choose_subset(labels, size + 1, seed=3).tolist())
    if 1 < size < 299:
        assert not torch.equal(subset, choose_subset(labels, size, seed=4))


def test_rare_class_contributes_all_images():
    labels = torch.tensor([0] * 50 + [1] * 3 + [2] * 50)
    assert labels[choose_subset(labels, 23, seed=0)].bincount().tolist() == [10, 3, 10]


def test_whole_set_keeps_its_order():
    assert choose_subset(torch.tensor([3, 1, 2]), 3, seed=0).tolist() == [0, 1, 2]


def test_subset_larger_than_the_set_is_refused():
    config = DataConfig(dataset="digits", train_images=1438)
    for use in (describe_dataset, lambda config: load_dataset(config, image_size=8)):
        with pytest.raises(ConfigError) as error:
            use(config)
        assert error.value.problems[0].key == "train_images"
        assert "1438" in str(error.value)
        assert "1437" in str(error.value)


def test_decoders_are_imported_late_and_libraries_of_the_sweep_never(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "ant").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / split / "ant" / "0.png")
    script = """
import sys
for name in ("ray", "optuna", "pandas"):
    sys.modules[name] = None  # importing it fails
from famba_core.config import DataConfig
from famba_core.data import augment
from famba_core.data.datasets import load_dataset
lazy = {"pyarrow", "PIL", "sklearn", "huggingface_hub"} & sys.modules.keys()
assert not lazy, lazy
assert len(load_dataset(DataConfig(dataset="digits"), 8).test.labels) == 360
assert len(load_dataset(DataConfig(dataset="imagefolder", data_dir="."), 8).test.labels) == 1
"""
    package = Path(famba_core.data.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(package)},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dataset", ["cifar100", "imagefolder"])
def test_unreadable_folder_is_reported(dataset):
    with pytest.raises(ConfigError, match=f"data_dir: {dataset} cannot be read: .*: File name too long"):
        describe_dataset(DataConfig(dataset=dataset, data_dir=300 * "a"))
