"""A checksum of a whole file that stands inside it, in text that its format lets one add.

Parquet's own checksums cover its pages alone: a bit in its footer can rename a column, whose numbers are then missing
without a word.
"""

from __future__ import annotations

import re
import zlib

CHECKSUM_KEY = "checksum"  # of the entry that holds it, in the metadata of Parquet and in JSON
CHECKSUM_PLACEHOLDER = "famba-sweep crc32:00000000"  # what a writer puts there before `with_checksum`
_MARK, _DIGITS = b"famba-sweep crc32:", re.compile(rb"[0-9a-f]{8}")


class CorruptFile(Exception):
    """A file whose rows are not there, or cannot be what they say."""


def with_checksum(data: bytes) -> bytes:
    """The file with its checksum in place of the zeros of CHECKSUM_PLACEHOLDER, which it holds."""
    start = data.rindex(CHECKSUM_PLACEHOLDER.encode()) + len(_MARK)
    return data[:start] + b"%08x" % zlib.crc32(data) + data[start + 8 :]


def verify_checksum(data: bytes) -> bool | None:
    """Whether the file is as it was with_checksum; None if it has no checksum: it is older, or torn off before it."""
    start = data.rfind(_MARK) + len(_MARK)
    found = _DIGITS.match(data, start) if start >= len(_MARK) else None
    if found is None:
        return None
    # in pieces, because a copy of a large file with the zeros back in it would cost its size again
    view = memoryview(data)
    expected = zlib.crc32(view[start + 8 :], zlib.crc32(b"00000000", zlib.crc32(view[:start])))
    return int(found[0], 16) == expected
