"""The data sets by name, and the class-balanced subset that a run trains on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from famba_core.config import ConfigError, DataConfig
from famba_core.data import cifar100, digits, imagefolder
from famba_core.data.image_dataset import Choose, DatasetInfo, DatasetMissing, FoundDataset, ImageDataset

TEST_SEED = 0  # chooses the test images of every run, so that the models of all seeds are evaluated on the same

_FIND: dict[str, Callable[[DataConfig], FoundDataset]] = {
    "digits": digits.find,
    "cifar100": cifar100.find,
    "imagefolder": imagefolder.find,
}
# Sizes of the data sets that can be downloaded: what a run costs can be said before that.
_PUBLISHED = {
    "cifar100": DatasetInfo(
        num_classes=cifar100.NUM_CLASSES,
        train_images=cifar100.PUBLISHED_ROWS["train"],
        test_images=cifar100.PUBLISHED_ROWS["test"],
    ),
}


def describe_dataset(config: DataConfig) -> DatasetInfo:
    """Return the sizes and the fingerprint of the data set, without decoding an image.

    Raises DatasetMissing if it is not on this machine, and ConfigError if its files cannot be read or are damaged, or
    if `train_images` or `test_images` is more than it has.
    """
    try:
        found = _FIND[config.dataset](config)
        return DatasetInfo(
            num_classes=found.num_classes,
            train_images=_subset_size(config, "train_images", found.train_images),
            test_images=_subset_size(config, "test_images", found.test_images),
            fingerprint=found.fingerprint(),
            notes=found.notes,
        )
    except OSError as error:
        field = "dataset" if config.data_dir is None else "data_dir"
        sentence = f"{config.dataset} cannot be read: {error.filename}: {error.strerror}"
        raise ConfigError.of(field, sentence) from error


def size_dataset(config: DataConfig) -> DatasetInfo:
    """Return the description of the data set, or if it is not on this machine, its published sizes.

    Raises DatasetMissing if these are not known, and ConfigError as `describe_dataset`.
    """
    try:
        return describe_dataset(config)
    except DatasetMissing as error:
        if config.dataset not in _PUBLISHED:
            raise
        (problem,) = error.problems
        published = _PUBLISHED[config.dataset]
        note = f"{problem.sentence}; until then its published sizes count, and the ids of its trials are not final"
        return replace(
            published,
            train_images=_subset_size(config, "train_images", published.train_images),
            test_images=_subset_size(config, "test_images", published.test_images),
            notes=(note,),
        )


def load_dataset(config: DataConfig, image_size: int, seed: int = 0) -> ImageDataset:
    """Return both splits, decoded, on the CPU.

    Args:
        image_size: pixels, side of the model's input. digits (8 x 8) and cifar100 (32 x 32) keep their own size;
            the images of a folder are stored a little larger than this.
        seed: chooses the training images if `config.train_images` asks for a subset.

    Raises ConfigError as `describe_dataset` does, and for images that cannot be decoded or do not fit in memory.
    """
    found = _FIND[config.dataset](config)
    train, test = found.load(image_size, _choose_train(config, seed), _choose_test(config))
    return ImageDataset(train=train, test=test, num_classes=found.num_classes, mean=found.mean, std=found.std)


def check_dataset(config: DataConfig, image_size: int, seeds: Iterable[int]) -> None:
    """Raise the ConfigError that `load_dataset` would raise for any of the seeds. Decodes each image once."""
    _FIND[config.dataset](config).check(
        image_size, [_choose_train(config, seed) for seed in seeds], _choose_test(config)
    )


def _choose_train(config: DataConfig, seed: int) -> Choose:
    return lambda labels: choose_subset(labels, _subset_size(config, "train_images", len(labels)), seed)


def _choose_test(config: DataConfig) -> Choose:
    return lambda labels: choose_subset(labels, _subset_size(config, "test_images", len(labels)), TEST_SEED)


def _subset_size(config: DataConfig, field: Literal["train_images", "test_images"], available: int) -> int:
    """Return how many of the `available` images to use. Raises ConfigError if there are too few."""
    wanted: int | None = getattr(config, field)
    if wanted is not None and wanted > available:
        split = "training" if field == "train_images" else "test"
        sentence = f"must be at most {available}, the size of the {split} set of {config.dataset}, not {wanted}"
        raise ConfigError.of(field, sentence)
    return wanted or available


def choose_subset(labels: Tensor, size: int, seed: int) -> Tensor:
    """Return the indices of `size` random images in ascending order, int64 [size], with balanced classes.

    Class counts differ by at most one, except that a class with too few images contributes all it has. With one seed,
    a smaller subset lies inside every larger one. The whole set needs no choice and draws no random numbers.

    Args:
        labels: int64 [n].
        size: at most n.
    """
    if size == len(labels):
        return torch.arange(size)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled = labels[order]
    by_class = shuffled.argsort(stable=True)
    class_starts = shuffled.bincount().cumsum(0) - shuffled.bincount()
    # The rank of each image in its class. Taking first all of rank 0, then all of rank 1, ... balances the classes.
    rank = torch.empty_like(order)
    rank[by_class] = torch.arange(len(labels)) - class_starts[shuffled[by_class]]
    return order[rank.argsort(stable=True)[:size]].sort().values
