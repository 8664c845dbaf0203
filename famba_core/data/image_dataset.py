"""What a loaded data set is: whole splits of small images, held as uint8 tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RGB = tuple[float, float, float]

IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images and the numbers of their classes."""

    images: Tensor  # uint8 [n, 3, H, W], H = W
    labels: Tensor  # int64 [n]

    def to(self, device: torch.device | str) -> Split:
        return Split(images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """Both splits of a data set. `mean` and `std` normalise pixels that were scaled to 0..1."""

    name: str
    train: Split
    test: Split
    num_classes: int
    mean: RGB
    std: RGB


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known of a data set before any image is decoded."""

    num_classes: int
    train_images: int  # that are trained on: all of them, or the part that was asked for
    test_images: int
    fingerprint: str | None = None  # of its content; None for the set that comes with a library
