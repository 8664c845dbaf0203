"""A file's checksum that stands inside it."""

import pytest

from sweep.files.checksum import CHECKSUM_PLACEHOLDER, verify_checksum, with_checksum

TEXT = f"before {CHECKSUM_PLACEHOLDER} after".encode()


def test_a_sealed_file_is_whole_and_any_other_bit_is_damage():
    data = with_checksum(TEXT)
    assert len(data) == len(TEXT)
    assert verify_checksum(data) is True
    mark = range(
        data.index(b"famba"), data.index(b"famba") + len(CHECKSUM_PLACEHOLDER)
    )  # where damage costs the checksum alone
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert verify_checksum(bytes(flipped)) in ((False, None) if bit // 8 in mark else (False,))


@pytest.mark.parametrize("data", [b"", b"0", b"older", b"famba-sweep crc32:", b"famba-sweep crc32:0000", TEXT[:20]])
def test_what_was_not_sealed_has_no_answer(data):
    assert verify_checksum(data) is None


def test_the_last_mark_counts():
    assert verify_checksum(with_checksum(b"a text that quotes famba-sweep crc32:12345678, " + TEXT)) is True


def test_what_holds_no_place_for_it_cannot_be_sealed():
    with pytest.raises(ValueError, match="not found"):
        with_checksum(b"text")
