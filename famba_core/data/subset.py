"""A class-balanced, seeded subset of a training set."""

from __future__ import annotations

import torch
from torch import Tensor

from famba_core.config import ConfigError, DataConfig


def subset_size(config: DataConfig, available: int) -> int:
    """Return how many of the `available` training images to use. Raises ConfigError if there are too few."""
    wanted = config.train_images
    if wanted is not None and wanted > available:
        sentence = f"must be at most {available}, the size of the training set of {config.dataset}, not {wanted}"
        raise ConfigError.of("train_images", sentence)
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
