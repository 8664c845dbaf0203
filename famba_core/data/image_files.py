"""The image files of a split: which there are, which can be read, and how."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from famba_core.config import ConfigError
from famba_core.data.file_cache import Arrays, cached_arrays
from famba_core.data.pixels import read_header, read_rgb

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")

SUFFIXES = (
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
MOST_NAMED = 5  # files, or kinds of them, in a sentence


class Listing(NamedTuple):
    """The files of a split. What begins with a dot is passed over."""

    images: dict[str, list[Path]]  # by class, both sorted
    left_out: list[Path]  # files that are not images, or in no class


def list_split(split: Path) -> Listing:
    """Return the files of a split, those in folders inside a class included."""
    images: dict[str, list[Path]] = {}
    left_out = []
    for entry in sorted(entry for entry in split.iterdir() if not entry.name.startswith(".")):
        if entry.is_dir():
            files = _walk(entry)
            images[entry.name] = [file for file in files if _is_image(file)]
            left_out += [file for file in files if not _is_image(file)]
        else:
            left_out.append(entry)
    return Listing(images, left_out)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _walk(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted. A folder that links make appear twice counts once."""
    found: list[Path] = []
    seen = set()

    def fail(error: OSError) -> None:
        raise error

    for here, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        seen.add(os.path.realpath(here))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(here, name)) not in seen
        ]
        found += [Path(here, name) for name in files if not name.startswith(".")]
    return sorted(found)


def notes_left_out(listing: Listing) -> Iterator[str]:
    """Yield a sentence for each kind of file that is left out."""
    others = [file for file in listing.left_out if not _is_image(file)]
    images = [file for file in listing.left_out if _is_image(file)]
    for files, why in ((images, "images that are in no class folder"), (others, "files that are not read as images")):
        if files:
            endings = Counter(file.suffix.lower() or "no ending" for file in files).most_common(MOST_NAMED)
            counts = ", ".join(f"{ending} {count}" for ending, count in endings)
            yield f"{why} are left out: {files[0]}" + (f" and {len(files) - 1} more ({counts})" if files[1:] else "")


def read_marks(files: Sequence[Path]) -> list[str]:
    """Return what the headers of images say of how they are read, as `Header.mark`."""

    def build() -> Arrays:
        return {"marks": np.array(map_images(files, lambda image, _: read_header(image).mark), dtype=np.str_)}

    marks: list[str] = cached_arrays("image-headers", files, build)["marks"].tolist()
    return marks


def check_readable(files: Sequence[Path]) -> None:
    """Decode images, unless an earlier call decoded these very files.

    Raises ConfigError with the names of those that cannot be read.
    """

    def build() -> Arrays:
        return {"decoded": np.array(len(map_images(files, lambda image, _: read_rgb(image).size)))}

    cached_arrays("readable-images", files, build)


def map_images(files: Sequence[Path], look: Callable[[Image.Image, int], T]) -> list[T]:
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
