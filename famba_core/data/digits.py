"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels that come with it (Alpaydin and Kaynak, UCI)."""

from __future__ import annotations

import numpy as np
import torch

from famba_core.config import DataConfig
from famba_core.data.image_dataset import DatasetInfo, ImageDataset, Split
from famba_core.data.part import balanced_part, part_size

NUM_CLASSES = 10
TEST_IMAGES_PER_CLASS = 36  # a fifth
TEST_IMAGES = NUM_CLASSES * TEST_IMAGES_PER_CLASS
TRAIN_IMAGES = 1797 - TEST_IMAGES


def describe(config: DataConfig) -> DatasetInfo:
    return DatasetInfo(num_classes=NUM_CLASSES, train_images=part_size(config, TRAIN_IMAGES), test_images=TEST_IMAGES)


def load(config: DataConfig, image_size: int, seed: int) -> ImageDataset:
    """Grey repeated to three channels, 8 x 8 whatever `image_size` is. The test split is the same for every seed."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)
    images = grey[:, None].repeat(1, 3, 1, 1)
    labels = torch.from_numpy(digits.target).long()
    is_test = torch.from_numpy(_is_test(digits.target))
    train = torch.where(~is_test)[0]
    train = train[balanced_part(labels[train], part_size(config, len(train)), seed)]
    return ImageDataset(
        name="digits",
        train=Split(images=images[train], labels=labels[train]),
        test=Split(images=images[is_test], labels=labels[is_test]),
        num_classes=NUM_CLASSES,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


def _is_test(labels: np.ndarray) -> np.ndarray:
    """Of each class as many, evenly spaced in the file: it is ordered by writer, so both splits hold every hand."""
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(NUM_CLASSES):
        members = np.flatnonzero(labels == label)
        is_test[members[np.arange(TEST_IMAGES_PER_CLASS) * len(members) // TEST_IMAGES_PER_CLASS]] = True
    return is_test
