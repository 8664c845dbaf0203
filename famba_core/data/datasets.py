"""The data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from famba_core.config import ConfigError, DataConfig
from famba_core.data import cifar100, digits, imagefolder
from famba_core.data.folders import DatasetMissing
from famba_core.data.image_dataset import DatasetInfo, ImageDataset, Split

__all__ = ["DatasetInfo", "DatasetMissing", "ImageDataset", "Split", "describe_dataset", "load_dataset"]


class _Source(NamedTuple):
    describe: Callable[[DataConfig], DatasetInfo]
    load: Callable[[DataConfig, int, int], ImageDataset]


_SOURCES = {
    "digits": _Source(digits.describe, digits.load),
    "cifar100": _Source(cifar100.describe, cifar100.load),
    "imagefolder": _Source(imagefolder.describe, imagefolder.load),
}


def describe_dataset(config: DataConfig) -> DatasetInfo:
    """Sizes of the data set, without decoding an image.

    Raises DatasetMissing where it is not on this machine, ConfigError where its files cannot be read or are not what
    they should be, or `train_images` is more than it has.
    """
    try:
        return _SOURCES[config.dataset].describe(config)
    except OSError as error:
        field = "dataset" if config.data_dir is None else "data_dir"
        sentence = f"{config.dataset} cannot be read: {error.filename}: {error.strerror}"
        raise ConfigError([(field, sentence)]) from error


def load_dataset(config: DataConfig, image_size: int, seed: int = 0) -> ImageDataset:
    """Both splits, decoded, on the CPU.

    Args:
        image_size: pixels, side of the model's input. digits (8 x 8) and cifar100 (32 x 32) keep their own size;
            an image folder is stored a little larger than this.
        seed: chooses the part of the training set that `config.train_images` asks for.

    Raises what `describe_dataset` raises, and ConfigError for images that cannot be decoded or do not fit in memory.
    """
    return _SOURCES[config.dataset].load(config, image_size, seed)
