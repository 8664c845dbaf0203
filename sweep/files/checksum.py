"""CRC-32 of a whole file, stored in its own metadata, which both Parquet and JSON allow.

Parquet's own checksums cover its pages only. A flipped bit in its footer can rename a column, whose numbers would then
be missing silently.
"""

from __future__ import annotations

import re
import zlib

CHECKSUM_KEY = "checksum"  # of the entry that holds it, in Parquet metadata and in JSON
CHECKSUM_PLACEHOLDER = "famba-sweep crc32:00000000"  # what a writer puts there before it calls `with_checksum`
_MARK, _DIGITS = b"famba-sweep crc32:", re.compile(rb"[0-9a-f]{8}")


class CorruptFile(Exception):
    """A file whose content is damaged or cannot be what its name says."""


def with_checksum(data: bytes) -> bytes:
    """Return the file with its checksum in place of the zeros of its last CHECKSUM_PLACEHOLDER."""
    start = data.rindex(CHECKSUM_PLACEHOLDER.encode()) + len(_MARK)
    return data[:start] + b"%08x" % zlib.crc32(data) + data[start + 8 :]


def verify_checksum(data: bytes) -> bool | None:
    """True if the file has not changed since `with_checksum`; None if it has no checksum: it is older, or truncated."""
    start = data.rfind(_MARK) + len(_MARK)
    found = _DIGITS.match(data, start) if start >= len(_MARK) else None
    if found is None:
        return None
    # In pieces: a copy of a large file with the zeros put back would double its memory.
    view = memoryview(data)
    expected = zlib.crc32(view[start + 8 :], zlib.crc32(b"00000000", zlib.crc32(view[:start])))
    return int(found[0], 16) == expected
