"""A class-balanced, seeded part of a training set."""

from __future__ import annotations

import torch
from torch import Tensor

from famba_core.config import ConfigError, DataConfig


def part_size(config: DataConfig, available: int) -> int:
    """How many of the `available` training images are used. Raises ConfigError where more are asked for."""
    if config.train_images is not None and config.train_images > available:
        raise ConfigError(
            [
                (
                    "train_images",
                    f"{config.train_images} images are asked for, and the training set of "
                    f"{config.dataset} has {available}",
                )
            ]
        )
    return config.train_images or available


def balanced_part(labels: Tensor, size: int, seed: int) -> Tensor:
    """Ascending indices of `size` images, chosen at random, with the classes as even as they can be.

    Class counts differ by at most one, except that a class with too few images gives all it has. With one seed, a
    smaller part lies inside every larger one. The whole set needs no choice and draws nothing.

    Args:
        labels: int64 [n].
        size: at most n.

    Returns int64 [size].
    """
    if size == len(labels):
        return torch.arange(size)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled = labels[order]
    by_class = shuffled.argsort(stable=True)
    class_starts = shuffled.bincount().cumsum(0) - shuffled.bincount()
    # The how-manieth of its class each image is. Taking first all firsts, then all seconds, ... evens out the classes.
    turn = torch.empty_like(order)
    turn[by_class] = torch.arange(len(labels)) - class_starts[shuffled[by_class]]
    return order[turn.argsort(stable=True)[:size]].sort().values
