"""The cache of decoded arrays: it saves time and never changes what is loaded."""

import os

import numpy as np
import pytest

from famba_core.data import file_cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "famba-sweep"


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "source"
    file.write_text("7")
    return file


class Reader:
    """Builds an array from the number in a file, and counts the builds."""

    def __init__(self, file):
        self.file = file
        self.builds = 0

    def build(self):
        self.builds += 1
        return {"images": np.full(10_000, int(self.file.read_text())), "labels": np.arange(3)}

    def read(self):
        arrays = file_cache.cached_arrays("numbers", [self.file], self.build)
        assert arrays.keys() == {"images", "labels"}
        assert np.array_equal(arrays["labels"], np.arange(3))
        assert (arrays["images"] == int(self.file.read_text())).all()
        return self.builds


def test_second_read_builds_nothing(folder, source):
    assert Reader(source).read() == 1
    assert Reader(source).read() == 0


@pytest.mark.parametrize("change", ["content", "time", "path"])
def test_changed_file_is_built_again(folder, source, change, tmp_path):
    Reader(source).read()
    if change == "content":
        before = source.stat()
        source.write_text("12")
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "time":
        source.write_text("8")
        os.utime(source, ns=(1, 1))
    else:
        source = source.rename(tmp_path / "moved")
    assert Reader(source).read() == 1


def flip_a_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"not an archive" * 100,
        lambda content: content[: len(content) // 2],
        flip_a_bit,
    ],
)
def test_damaged_entry_is_built_again(folder, source, damage):
    Reader(source).read()
    (entry,) = folder.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    assert Reader(source).read() == 1
    assert Reader(source).read() == 0


def test_missing_cache_folder_is_not_an_error(folder, source):
    folder.parent.write_text("a file where the folder should be")
    assert Reader(source).read() == 1
    assert Reader(source).read() == 1


def test_full_disk_leaves_no_entry(folder, source, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("famba_core.files.os.fsync", full)
    assert Reader(source).read() == 1
    assert list(folder.iterdir()) == []
