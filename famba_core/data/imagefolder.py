"""Any set of images in folders: train/<class>/* and val/<class>/* (or test/<class>/*)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from famba_core.config import ConfigError, DataConfig
from famba_core.data import fingerprint
from famba_core.data.folders import data_folders, dataset_missing
from famba_core.data.image_dataset import IMAGENET_MEAN, IMAGENET_STD, DatasetInfo, ImageDataset, Split
from famba_core.data.part import balanced_part, part_size

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
MARGIN = 256 / 224  # stored side over the model's: what random crops and the evaluation's centre crop take from
MOST_GIB = 16  # of decoded images: a set is held in memory whole


@dataclass(frozen=True, kw_only=True)
class _Listing:
    classes: list[str]
    train: list[tuple[Path, int]]  # (file, class)
    test: list[tuple[Path, int]]


def describe(config: DataConfig) -> DatasetInfo:
    listing = _list(config)
    return DatasetInfo(
        num_classes=len(listing.classes),
        train_images=part_size(config, len(listing.train)),
        test_images=len(listing.test),
        fingerprint=_fingerprint(listing),
    )


def _fingerprint(listing: _Listing) -> str:
    """Of the files' names within the folder and their sizes: reading every image would take longer than it is worth."""
    files = (file for file, _ in (*listing.train, *listing.test))
    return fingerprint.of_words(f"{'/'.join(file.parts[-3:])} {file.stat().st_size}" for file in files)


def load(config: DataConfig, image_size: int, seed: int) -> ImageDataset:
    """Each image's shorter side is resized to 256/224 of `image_size`, and the square in its middle kept."""
    listing = _list(config)
    labels = torch.tensor([label for _, label in listing.train])
    part = balanced_part(labels, part_size(config, len(labels)), seed)
    train = [listing.train[i] for i in part.tolist()]
    side = round(image_size * MARGIN)
    gib = (len(train) + len(listing.test)) * 3 * side**2 / 2**30
    if gib > MOST_GIB:
        raise ConfigError(
            [
                (
                    "train_images",
                    f"{len(train) + len(listing.test)} images of {side} x {side} pixels need "
                    f"{gib:.1f} GiB of memory, and {MOST_GIB} GiB is the most; "
                    "train on fewer images, or on smaller ones",
                )
            ]
        )
    return ImageDataset(
        name="imagefolder",
        train=_decode(train, side),
        test=_decode(listing.test, side),
        num_classes=len(listing.classes),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _list(config: DataConfig) -> _Listing:
    for folder in data_folders(config):
        train = folder / "train"
        test = next((folder / name for name in ("val", "test") if (folder / name).is_dir()), None)
        if train.is_dir() and test is not None:
            return _list_splits(train, test)
    raise dataset_missing(
        config,
        wanted="train/<class>/ and val/<class>/ (or test/<class>/)",
        remedy="name the folder that holds them with --data-dir or FAMBA_DATA",
    )


def _list_splits(train: Path, test: Path) -> _Listing:
    by_class = {split: _images_by_class(split) for split in (train, test)}
    problems = [
        f"{split} has no folder {name}, which {other} has"
        for split, other in ((train, test), (test, train))
        for name in sorted(by_class[other].keys() - by_class[split].keys())
    ]
    problems += [
        f"{split / name} holds no image (a file ending in {', '.join(sorted(SUFFIXES))})"
        for split in by_class
        for name, files in by_class[split].items()
        if not files
    ]
    if not by_class[train]:
        problems.append(f"{train} has no folder, and there should be one for each class")
    if problems:
        raise ConfigError([("data_dir", problem) for problem in problems])
    classes = list(by_class[train])
    return _Listing(
        classes=classes,
        train=[(file, label) for label, name in enumerate(classes) for file in by_class[train][name]],
        test=[(file, label) for label, name in enumerate(classes) for file in by_class[test][name]],
    )


def _images_by_class(split: Path) -> dict[str, list[Path]]:
    folders = sorted(folder for folder in split.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    return {
        folder.name: sorted(
            file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        )
        for folder in folders
    }


def _decode(files: Sequence[tuple[Path, int]], side: int) -> Split:
    """Square RGB images of `side` pixels. Raises ConfigError with the names of those that cannot be read."""
    from PIL import Image, ImageOps

    images = np.empty((len(files), 3, side, side), dtype=np.uint8)

    def decode(i: int) -> str | None:
        file, _ = files[i]
        try:
            with Image.open(file) as image:
                square = ImageOps.fit(image.convert("RGB"), (side, side), method=Image.Resampling.BICUBIC)
        except Exception as error:  # Pillow's readers raise errors of many kinds for damaged files
            return f"{file} ({error})"
        images[i] = np.asarray(square).transpose(2, 0, 1)
        return None

    with ThreadPoolExecutor() as pool:
        unreadable = [failure for failure in pool.map(decode, range(len(files))) if failure is not None]
    if unreadable:
        shown = ", ".join(unreadable[:5]) + (", ..." if len(unreadable) > 5 else "")
        raise ConfigError([("data_dir", f"{len(unreadable)} images cannot be read: {shown}")])
    return Split(images=torch.from_numpy(images), labels=torch.tensor([label for _, label in files]))
