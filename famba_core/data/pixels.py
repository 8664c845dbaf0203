"""Pixels of an image file as viewers show them: 8-bit RGB, turned by its EXIF orientation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

ORIENTATION = 0x0112  # tag of EXIF 2.32, table 4
# what brings an image upright, by its orientation: names of Pillow's transpositions
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_SIDEWAYS = ("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
_LEVELS_16_TO_8 = 257  # 65535 / 255


class Header(NamedTuple):
    """What an image's header says of how its pixels are read."""

    turn: str | None  # name of a transposition
    sixteen_bits: bool  # grey in 0..65535

    @property
    def mark(self) -> str:
        """Return what a fingerprint says of it: "" for an image that is read as it is stored."""
        return " ".join([self.turn or "", "16 bits" if self.sixteen_bits else ""]).strip()


def read_header(image: Image.Image) -> Header:
    """Return how an opened image is read. Raises ValueError if the range of its pixels is unknown."""
    # Pillow reads grey PNG and PGM of 16 bits as I;16 or I, which depends on its version
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode in ("I", "F") and not sixteen_bits:
        kind = "whole numbers of 32 bits" if image.mode == "I" else "floating-point numbers"
        raise ValueError(f"its pixels are {kind}, whose range is unknown; save it with 8 or 16 bits")
    return Header(turn=_TURNS.get(_orientation(image)), sixteen_bits=sixteen_bits)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) in pixels of an opened image, upright. Raises ValueError as `read_header`."""
    width, height = image.size
    return (height, width) if read_header(image).turn in _SIDEWAYS else (width, height)


def read_rgb(image: Image.Image) -> Image.Image:
    """Return an opened image in 8-bit RGB, upright. Raises ValueError as `read_header`, and Pillow its own errors."""
    from PIL import Image

    header = read_header(image)
    image.load()
    if header.sixteen_bits:
        levels = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((levels + _LEVELS_16_TO_8 // 2) // _LEVELS_16_TO_8).astype(np.uint8))
    rgb = image.convert("RGB")
    return rgb if header.turn is None else rgb.transpose(Image.Transpose[header.turn])


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) if there is none that can be read. TIFF is turned by Pillow itself."""
    from PIL import Image

    if image.format == "TIFF":
        return 1
    try:
        # the method of the base class: PNG's own decodes the image if its header has no EXIF
        return int(Image.Image.getexif(image).get(ORIENTATION, 1))
    except Exception:  # for damaged EXIF Pillow raises errors of many kinds; viewers ignore it
        return 1
