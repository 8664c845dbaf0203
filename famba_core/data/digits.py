"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels that come with it (Alpaydin and Kaynak, UCI)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from famba_core.config import DataConfig
from famba_core.data.image_dataset import Choose, FoundDataset, Split

NUM_CLASSES = 10
TEST_IMAGES_PER_CLASS = 36  # a fifth
TEST_IMAGES = NUM_CLASSES * TEST_IMAGES_PER_CLASS
TRAIN_IMAGES = 1797 - TEST_IMAGES


def find(config: DataConfig) -> FoundDataset:
    """Return the data set, which is always there."""
    return FoundDataset(
        num_classes=NUM_CLASSES,
        train_images=TRAIN_IMAGES,
        test_images=TEST_IMAGES,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        load=_load,
    )


def _load(image_size: int, choose_train: Choose, choose_test: Choose) -> tuple[Split, Split]:
    """Return both splits, grey in three equal channels, 8 x 8. The test split does not depend on the seed."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)
    images = Split(images=grey[:, None].repeat(1, 3, 1, 1), labels=torch.from_numpy(digits.target).long())
    is_test = torch.from_numpy(_is_test(digits.target))
    train, test = images.subset(~is_test), images.subset(is_test)
    return train.subset(choose_train(train.labels)), test.subset(choose_test(test.labels))


def _is_test(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a mask with equally many images of each class, evenly spaced in the file.

    The file is ordered by writer, so both splits contain every handwriting.
    """
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(NUM_CLASSES):
        members = np.flatnonzero(labels == label)
        is_test[members[np.arange(TEST_IMAGES_PER_CLASS) * len(members) // TEST_IMAGES_PER_CLASS]] = True
    return is_test
