"""Data sets of small images: the folders where they are searched, their description, and their uint8 tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from famba_core.config import ConfigError, DataConfig

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
        """Return the images at the given indices, int64 [m], or where a mask, bool [n], is True."""
        return Split(images=self.images[indices], labels=self.labels[indices])


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """Both splits of a data set, whole in memory. `mean` and `std` normalise pixels that were scaled to 0..1."""

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
    test_images: int  # evaluated on, likewise
    fingerprint: str | None = None  # of the content; None for the set that comes with a library
    notes: tuple[str, ...] = ()  # what a user should know, such as files that are left out

    def notes_for(self, batch_size: int) -> Iterator[str]:
        """Yield what a user who trains with this batch size should know."""
        for note in self.notes:
            yield f"note: {note}"
        if batch_size > self.train_images:
            yield (
                f"warning: batch_size {batch_size} is more than the {self.train_images} training images: an epoch is "
                f"one step, of {self.train_images} images"
            )


Choose = Callable[[Tensor], Tensor]  # labels of all images of a split -> indices of those to use


@dataclass(frozen=True, kw_only=True)
class FoundDataset:
    """A data set on this machine: its sizes, and the functions that read it."""

    num_classes: int
    train_images: int  # all that there are
    test_images: int
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD
    fingerprint: Callable[[], str | None] = lambda: None  # see DatasetInfo
    notes: tuple[str, ...] = ()  # see DatasetInfo
    load: Callable[
        [int, Choose, Choose], tuple[Split, Split]
    ]  # from image_size in pixels: what to train on, and to test
    check: Callable[[int, Sequence[Choose], Choose], None] = lambda image_size, trains, test: None  # as any such `load`


class DatasetMissing(ConfigError):
    """The data set is in none of the folders that were searched."""


def search_folders(config: DataConfig) -> list[Path]:
    """Return the configured folder alone, or if there is none, FAMBA_DATA and `data/` in this order."""
    if config.data_dir is not None:
        return [Path(os.path.expanduser(config.data_dir))]  # Path.expanduser raises for an unknown user
    from_environment = os.environ.get("FAMBA_DATA")
    return [Path(os.path.expanduser(folder)) for folder in (from_environment, "data") if folder]


def missing_dataset(config: DataConfig, *, lacks: Callable[[Path], str], wanted: str, remedy: str) -> DatasetMissing:
    """Return the error that names the folders searched, what each lacks, the files wanted, and how to get them."""
    searched = ", ".join(
        f"{folder.absolute()} ({lacks(folder) if folder.is_dir() else 'there is no such folder'})"
        for folder in search_folders(config)
    )
    field = "dataset" if config.data_dir is None else "data_dir"
    return DatasetMissing.of(field, f"{config.dataset} was not found; searched {searched} for {wanted}; {remedy}")
