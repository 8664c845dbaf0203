"""What an image folder holds, and what keeps it from being trained on: for whoever sees it for the first time."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from famba_core.config import ConfigError, DataConfig
from famba_core.data.image_dataset import DatasetMissing
from famba_core.data.image_files import list_split
from famba_core.data.imagefolder import find
from famba_core.data.pixels import read_rgb, upright_size

SPLITS = ("train", "val", "test")
MOST_DECODED = 2000  # images, spread evenly over the folder; the headers of all are read
GREY_LEVELS = 4  # of 255: largest difference between the colours of a grey pixel, which JPEG changes a little
NAMED = 5  # unreadable images, and folders, that a sentence names


@dataclass(frozen=True, kw_only=True)
class FolderFacts:
    """Splits, classes and images of a folder."""

    counts: Mapping[str, Mapping[str, int]]  # images by split, then by class; splits that are not there are left out
    sizes: Counter[tuple[int, int]]  # images by (width, height) in pixels
    formats: Counter[str]  # images by Pillow's name of their format
    grey: bool  # no decoded image has colours
    problems: tuple[str, ...]  # each keeps a model from training on this folder

    @property
    def test_split(self) -> str:
        """Return the split that models are evaluated on."""
        return "val" if "val" in self.counts else "test"


class _Image(NamedTuple):
    """One image: what its header says, and whether it has colours if it was decoded."""

    size: tuple[int, int]
    format: str
    coloured: bool = False


def inspect_folder(folder: Path) -> FolderFacts:
    """Return what `folder` holds. Every image's header is read, and up to MOST_DECODED images are decoded."""
    found = {name: list_split(folder / name) for name in SPLITS if (folder / name).is_dir()}
    files = [file for listing in found.values() for images in listing.images.values() for file in images]
    step = -(-len(files) // MOST_DECODED)
    with ThreadPoolExecutor() as pool:
        looked = list(pool.map(lambda i: _look(files[i], decode=i % step == 0), range(len(files))))
    images = [each for each in looked if isinstance(each, _Image)]
    unreadable = [each for each in looked if isinstance(each, str)]
    problems = _problems_of_layout(folder)
    if unreadable:
        verb = "image cannot be read" if len(unreadable) == 1 else "images cannot be read"
        problems.append(f"{len(unreadable)} {verb}; repair or remove: {_name_some(unreadable)}")
    return FolderFacts(
        counts={split: {name: len(files) for name, files in each.images.items()} for split, each in found.items()},
        sizes=Counter(each.size for each in images),
        formats=Counter(each.format for each in images),
        grey=not any(each.coloured for each in images),
        problems=tuple(problems),
    )


def _problems_of_layout(folder: Path) -> list[str]:
    """Return what the loader would refuse without decoding an image."""
    try:
        find(DataConfig(dataset="imagefolder", data_dir=str(folder)))
    except DatasetMissing:
        found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
        there = f"the folders here are {_name_some(found)}" if found else "there are no folders here"
        if (folder / "train").is_dir():
            return [f"val/ (or test/) is missing: move a fifth of each class to val/<class>/; {there}"]
        return [f"train/ is missing: put images into train/<class>/, and a fifth of them into val/<class>/; {there}"]
    except ConfigError as error:
        return [problem.sentence for problem in error.problems]
    return []


def _look(file: Path, *, decode: bool) -> _Image | str:
    """Return what an image's header says, or a sentence if it cannot be read."""
    from PIL import Image

    if file.stat().st_size == 0:
        return f"{file} (it is empty)"
    try:
        with Image.open(file) as image:
            size, kind = upright_size(image), image.format or file.suffix
            if not decode:
                return _Image(size, kind)
            image.draft(None, (64, 64))  # a JPEG decodes faster at a fraction of its size
            rgb = read_rgb(image)
            rgb.thumbnail((64, 64))
            pixels = np.asarray(rgb, dtype=np.int16)
    except Exception as error:  # for damaged files Pillow raises errors of many kinds
        return f"{file} ({error})"
    return _Image(size, kind, coloured=bool(np.ptp(pixels, axis=2).max() > GREY_LEVELS))


def _name_some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
