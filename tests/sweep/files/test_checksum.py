"""The checksum of a file in its own metadata."""

import pytest

from sweep.files.checksum import CHECKSUM_PLACEHOLDER, verify_checksum, with_checksum

TEXT = f"before {CHECKSUM_PLACEHOLDER} after".encode()


def test_a_file_with_its_checksum_is_intact_and_any_flipped_bit_is_damage():
    data = with_checksum(TEXT)
    assert len(data) == len(TEXT)
    assert verify_checksum(data) is True
    start = data.index(b"famba")
    mark = range(start, start + len(CHECKSUM_PLACEHOLDER))  # damage here may destroy the checksum only
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert verify_checksum(bytes(flipped)) in ((False, None) if bit // 8 in mark else (False,))


@pytest.mark.parametrize("data", [b"", b"0", b"older", b"famba-sweep crc32:", b"famba-sweep crc32:0000", TEXT[:20]])
def test_a_file_without_a_checksum_is_neither_intact_nor_damaged(data):
    assert verify_checksum(data) is None


def test_the_last_checksum_in_a_file_counts():
    assert verify_checksum(with_checksum(b"a text that quotes famba-sweep crc32:12345678, " + TEXT)) is True


def test_a_file_without_the_placeholder_gets_no_checksum():
    with pytest.raises(ValueError, match="not found"):
        with_checksum(b"text")
