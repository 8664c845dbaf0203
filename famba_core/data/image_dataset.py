"""Data sets of small images: found on disk, described, and loaded as uint8 tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

RGB = tuple[float, float, float]

IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images and the indices of their classes."""

    images: Tensor  # uint8 [n, 3, H, W], H = W
    labels: Tensor  # int64 [n]

    def to(self, device: torch.device | str) -> Split:
        """Return the split on a device."""
        return Split(images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, indices: Tensor) -> Split:
        """Return the images at the given indices, int64 [m]."""
        return Split(images=self.images[indices], labels=self.labels[indices])


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """Both splits of a data set, whole in memory. `mean` and `std` normalise pixels that were scaled to 0..1."""

    name: str
    train: Split
    test: Split
    num_classes: int
    mean: RGB
    std: RGB


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """Facts about a data set that are known without decoding an image."""

    num_classes: int
    train_images: int  # images trained on: all of them, or the subset of the configured size
    test_images: int
    fingerprint: str | None = None  # of the content; None for the set that comes with a library


Choose = Callable[[Tensor], Tensor]  # labels of all training images -> indices of those to train on


@dataclass(frozen=True, kw_only=True)
class FoundDataset:
    """A data set on this machine: its sizes, and the functions that read it."""

    num_classes: int
    train_images: int  # all that there are
    test_images: int
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD
    fingerprint: Callable[[], str | None] = lambda: None  # see DatasetInfo
    load: Callable[[int, Choose], tuple[Split, Split]]  # from image_size in pixels: the images to train on, and to test
