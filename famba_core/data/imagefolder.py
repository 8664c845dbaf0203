"""Any data set in folders of images: train/<class>/* and val/<class>/* (or test/<class>/*)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from famba_core.config import ConfigError, DataConfig
from famba_core.data.file_cache import fingerprint_strings
from famba_core.data.image_dataset import Choose, FoundDataset, Split, missing_dataset, search_folders
from famba_core.data.image_files import SUFFIXES, check_readable, list_split, map_images, notes_left_out, read_marks
from famba_core.data.pixels import read_rgb
from famba_core.errors import Problem, raise_problems

if TYPE_CHECKING:
    from PIL import Image

MARGIN = 256 / 224  # side of a stored image over that of the model's input, for random crops and the centre crop
MOST_GIB = 16  # of decoded images, which are all in memory


Files = list[tuple[Path, int]]  # images with the indices of their classes


def find(config: DataConfig) -> FoundDataset:
    """Return the set in the first folder with both splits."""
    for folder in search_folders(config):
        if not _lacks(folder):
            return _found(folder / "train", next(test for test in _test_splits(folder) if test.is_dir()))
    raise missing_dataset(
        config,
        lacks=_lacks,
        wanted="train/<class>/ and val/<class>/ (or test/<class>/)",
        remedy="name the folder that contains them with --data-dir or FAMBA_DATA",
    )


def _test_splits(folder: Path) -> tuple[Path, Path]:
    return folder / "val", folder / "test"


def _lacks(folder: Path) -> str:
    """Say which splits are missing; "" if none is."""
    missing = [] if (folder / "train").is_dir() else ["train/"]
    if not any(test.is_dir() for test in _test_splits(folder)):
        missing.append("val/ (or test/)")
    return " and ".join(missing) + (" is missing" if len(missing) == 1 else " are missing") if missing else ""


def _found(train_folder: Path, test_folder: Path) -> FoundDataset:
    listings = {split: list_split(split) for split in (train_folder, test_folder)}
    raise_problems(_layout_problems({split: listing.images for split, listing in listings.items()}))
    train, test = (_labelled(listing.images) for listing in listings.values())
    root = train_folder.parent

    def load(image_size: int, choose_train: Choose, choose_test: Choose) -> tuple[Split, Split]:
        side = _stored_side(image_size)
        chosen = _choose(train, choose_train), _choose(test, choose_test)
        _raise_if_too_large(sum(map(len, chosen)), side)
        return _decode(chosen[0], side), _decode(chosen[1], side)

    def check(image_size: int, trains: Sequence[Choose], choose_test: Choose) -> None:
        tested = _choose(test, choose_test)
        chosen = [_choose(train, choose) for choose in trains]
        for files in chosen:
            _raise_if_too_large(len(files) + len(tested), _stored_side(image_size))
        check_readable(sorted({file for files in (*chosen, tested) for file, _ in files}))

    def fingerprint() -> str:
        """Return that of names inside the folder, sizes and marks: reading every image would take too long."""
        files = [file for file, _ in (*train, *test)]
        return fingerprint_strings(
            f"{file.relative_to(root).as_posix()} {file.stat().st_size}" + (f" {mark}" if mark else "")
            for file, mark in zip(files, read_marks(files), strict=True)
        )

    return FoundDataset(
        num_classes=len(listings[train_folder].images),
        train_images=len(train),
        test_images=len(test),
        fingerprint=fingerprint,
        notes=tuple(note for listing in listings.values() for note in notes_left_out(listing)),
        load=load,
        check=check,
    )


def _choose(files: Files, choose: Choose) -> Files:
    return [files[i] for i in choose(torch.tensor([label for _, label in files])).tolist()]


def _raise_if_too_large(images: int, side: int) -> None:
    """Raise ConfigError if images of `side` pixels do not fit in memory together."""
    if (gib := images * 3 * side**2 / 2**30) > MOST_GIB:
        size = f"{images} images of {side} x {side} pixels need {gib:.1f} GiB of memory, at most {MOST_GIB} GiB fit"
        raise ConfigError.of("train_images", f"{size}; train on fewer or smaller images")


def _stored_side(image_size: int) -> int:
    return round(image_size * MARGIN)


def _labelled(images: Mapping[str, Sequence[Path]]) -> Files:
    return [(file, label) for label, files in enumerate(images.values()) for file in files]


def _layout_problems(images: Mapping[Path, Mapping[str, Sequence[Path]]]) -> Iterator[Problem]:
    """Yield what keeps the images, by split and class, from being a data set: both splits need the same classes."""
    train, test = images
    for split, other in ((train, test), (test, train)):
        for name in sorted(images[other].keys() - images[split].keys()):
            yield Problem("", "data_dir", f"{split} has no folder {name}, which {other} has")
    for split, classes in images.items():
        for name, files in classes.items():
            if not files:
                kinds = f"a file that ends in {', '.join(SUFFIXES)}"
                yield Problem("", "data_dir", f"{split / name} contains no image ({kinds})")
    if not images[train]:
        yield Problem("", "data_dir", f"{train} must have a folder for each class, but has none")


def _decode(files: Files, side: int) -> Split:
    """Return square RGB images of `side` pixels: the shorter side resized, the centre kept.

    Raises ConfigError with the names of the images that cannot be read.
    """
    from PIL import Image, ImageOps

    images = np.empty((len(files), 3, side, side), dtype=np.uint8)

    def decode(image: Image.Image, i: int) -> None:
        square = ImageOps.fit(read_rgb(image), (side, side), method=Image.Resampling.BICUBIC)
        images[i] = np.asarray(square).transpose(2, 0, 1)

    map_images([file for file, _ in files], decode)
    return Split(images=torch.from_numpy(images), labels=torch.tensor([label for _, label in files]))
