"""Any data set in folders of images: train/<class>/* and val/<class>/* (or test/<class>/*)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from famba_core.config import ConfigError, DataConfig
from famba_core.data.file_cache import cached_arrays, fingerprint_strings
from famba_core.data.image_dataset import Choose, FoundDataset, Split, missing_dataset, search_folders
from famba_core.data.pixels import read_header, read_rgb

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
MARGIN = 256 / 224  # side of a stored image over that of the model's input, for random crops and the centre crop
MOST_GIB = 16  # of decoded images, which are all in memory
MOST_NAMED = 5  # images in a sentence


Files = list[tuple[Path, int]]  # images with the indices of their classes


def find(config: DataConfig) -> FoundDataset:
    """Return the set in the first folder with both splits."""
    for folder in search_folders(config):
        train = folder / "train"
        test = next((folder / name for name in ("val", "test") if (folder / name).is_dir()), None)
        if train.is_dir() and test is not None:
            return _found(*_list_splits(train, test))
    raise missing_dataset(
        config,
        wanted="train/<class>/ and val/<class>/ (or test/<class>/)",
        remedy="name the folder that contains them with --data-dir or FAMBA_DATA",
    )


def _found(train: Files, test: Files) -> FoundDataset:
    def load(image_size: int, choose: Choose) -> tuple[Split, Split]:
        chosen = choose(torch.tensor([label for _, label in train]))
        side = round(image_size * MARGIN)
        images = len(chosen) + len(test)
        if (gib := images * 3 * side**2 / 2**30) > MOST_GIB:
            size = f"{images} images of {side} x {side} pixels need {gib:.1f} GiB of memory, at most {MOST_GIB} GiB fit"
            raise ConfigError.of("train_images", f"{size}; train on fewer or smaller images")
        return _decode([train[i] for i in chosen.tolist()], side), _decode(test, side)

    def fingerprint() -> str:
        """Return that of names inside the folder, sizes and marks: reading every image would take too long."""
        files = [file for file, _ in (*train, *test)]
        return fingerprint_strings(
            f"{'/'.join(file.parts[-3:])} {file.stat().st_size}" + (f" {mark}" if mark else "")
            for file, mark in zip(files, _read_marks(files), strict=True)
        )

    return FoundDataset(
        num_classes=len({label for _, label in train}),
        train_images=len(train),
        test_images=len(test),
        fingerprint=fingerprint,
        load=load,
    )


def _list_splits(train: Path, test: Path) -> tuple[Files, Files]:
    """Return the images of both splits. Raises ConfigError unless both have images of the same classes."""
    by_class = {split: images_by_class(split) for split in (train, test)}
    problems = [
        f"{split} has no folder {name}, which {other} has"
        for split, other in ((train, test), (test, train))
        for name in sorted(by_class[other].keys() - by_class[split].keys())
    ]
    problems += [
        f"{split / name} contains no image (a file that ends in {', '.join(sorted(SUFFIXES))})"
        for split in by_class
        for name, files in by_class[split].items()
        if not files
    ]
    if not by_class[train]:
        problems.append(f"{train} must have a folder for each class, but has none")
    if problems:
        raise ConfigError.of("data_dir", *problems)
    train_files, test_files = (
        [(file, label) for label, files in enumerate(by_class[split].values()) for file in files]
        for split in (train, test)
    )
    return train_files, test_files


def images_by_class(split: Path) -> dict[str, list[Path]]:
    """Return the images of a split by the name of their class, both sorted."""
    folders = sorted(folder for folder in split.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    return {
        folder.name: sorted(
            file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        )
        for folder in folders
    }


def _read_marks(files: Sequence[Path]) -> list[str]:
    """Return what the headers of images say of how they are read, as `Header.mark`."""

    def build() -> dict[str, np.ndarray[tuple[int], np.dtype[np.str_]]]:
        return {"marks": np.array(_map_images(files, lambda image, _: read_header(image).mark), dtype=np.str_)}

    marks: list[str] = cached_arrays("image-headers", files, build)["marks"].tolist()
    return marks


def _decode(files: Files, side: int) -> Split:
    """Return square RGB images of `side` pixels: the shorter side resized, the centre kept.

    Raises ConfigError with the names of the images that cannot be read.
    """
    from PIL import Image, ImageOps

    images = np.empty((len(files), 3, side, side), dtype=np.uint8)

    def decode(image: Image.Image, i: int) -> None:
        square = ImageOps.fit(read_rgb(image), (side, side), method=Image.Resampling.BICUBIC)
        images[i] = np.asarray(square).transpose(2, 0, 1)

    _map_images([file for file, _ in files], decode)
    return Split(images=torch.from_numpy(images), labels=torch.tensor([label for _, label in files]))


def _map_images(files: Sequence[Path], look: Callable[[Image.Image, int], T]) -> list[T]:
    """Return what `look` returns for each opened image and its index.

    Raises ConfigError with the names of the images that cannot be read.
    """
    from PIL import Image

    def attempt(i: int) -> tuple[list[T], str | None]:
        file = files[i]
        try:
            if file.stat().st_size == 0:
                return [], f"{file} (it is empty)"
            with Image.open(file) as image:
                return [look(image, i)], None
        except Exception as error:  # for damaged files Pillow raises errors of many kinds
            return [], f"{file} ({error})"

    with ThreadPoolExecutor() as pool:
        looked = list(pool.map(attempt, range(len(files))))
    unreadable = [failure for _, failure in looked if failure is not None]
    if unreadable:
        shown = ", ".join(unreadable[:MOST_NAMED]) + (", ..." if len(unreadable) > MOST_NAMED else "")
        count = "1 image" if len(unreadable) == 1 else f"{len(unreadable)} images"
        raise ConfigError.of("data_dir", f"{count} cannot be read: {shown}")
    return [result for results, _ in looked for result in results]
