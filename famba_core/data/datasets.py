"""The data sets by name."""

from __future__ import annotations

from collections.abc import Callable

from famba_core.config import ConfigError, DataConfig
from famba_core.data import cifar100, digits, imagefolder
from famba_core.data.image_dataset import DatasetInfo, DatasetMissing, FoundDataset, ImageDataset, Split
from famba_core.data.subset import choose_subset, subset_size

__all__ = ["DatasetInfo", "DatasetMissing", "ImageDataset", "Split", "describe_dataset", "load_dataset"]

_FIND: dict[str, Callable[[DataConfig], FoundDataset]] = {
    "digits": digits.find,
    "cifar100": cifar100.find,
    "imagefolder": imagefolder.find,
}


def describe_dataset(config: DataConfig) -> DatasetInfo:
    """Return the sizes and the fingerprint of the data set, without decoding an image.

    Raises DatasetMissing if it is not on this machine, and ConfigError if its files cannot be read or are damaged, or
    if `train_images` is more than it has.
    """
    try:
        found = _FIND[config.dataset](config)
        return DatasetInfo(
            num_classes=found.num_classes,
            train_images=subset_size(config, found.train_images),
            test_images=found.test_images,
            fingerprint=found.fingerprint(),
        )
    except OSError as error:
        field = "dataset" if config.data_dir is None else "data_dir"
        sentence = f"{config.dataset} cannot be read: {error.filename}: {error.strerror}"
        raise ConfigError.of(field, sentence) from error


def load_dataset(config: DataConfig, image_size: int, seed: int = 0) -> ImageDataset:
    """Return both splits, decoded, on the CPU.

    Args:
        image_size: pixels, side of the model's input. digits (8 x 8) and cifar100 (32 x 32) keep their own size;
            the images of a folder are stored a little larger than this.
        seed: chooses the training images if `config.train_images` asks for a subset.

    Raises ConfigError as `describe_dataset` does, and for images that cannot be decoded or do not fit in memory.
    """
    found = _FIND[config.dataset](config)
    train, test = found.load(image_size, lambda labels: choose_subset(labels, subset_size(config, len(labels)), seed))
    return ImageDataset(
        name=config.dataset,
        train=train,
        test=test,
        num_classes=found.num_classes,
        mean=found.mean,
        std=found.std,
    )
