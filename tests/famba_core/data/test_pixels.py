"""Pixels as viewers show them: 16-bit grey, ranges that are unknown, EXIF orientation; and what a fingerprint says."""

import numpy as np
import pytest
from PIL import Image

from famba_core.config import ConfigError, DataConfig
from famba_core.data.datasets import describe_dataset, load_dataset
from famba_core.data.file_cache import fingerprint_strings
from famba_core.data.folder_facts import inspect_folder

RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
# A picture of four colours, and where each EXIF orientation says that its first row and first column are (EXIF 2.32).
CORNERS = np.array([[10, 80], [160, 240]], dtype=np.uint8)
STORED = {
    1: CORNERS,
    2: CORNERS[:, ::-1],
    3: CORNERS[::-1, ::-1],
    4: CORNERS[::-1],
    5: CORNERS.T,
    6: np.rot90(CORNERS),
    7: CORNERS[::-1, ::-1].T,
    8: np.rot90(CORNERS, -1),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def folder(tmp_path, save=None, name="0.png"):
    """Return the configuration of an image folder with one image of each split; `save` writes that of training."""
    for split in ("train", "val"):
        (tmp_path / split / "ant").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64)).save(tmp_path / split / "ant" / "0.png")
    if save:
        (tmp_path / "train" / "ant" / "0.png").unlink()
        save(tmp_path / "train" / "ant" / name)
    return DataConfig(dataset="imagefolder", data_dir=str(tmp_path))


def loaded(config):
    """Return the training image in grey, 64 x 64."""
    image = load_dataset(config, image_size=56).train.images[0].numpy()
    assert (image[0] == image[1]).all()
    assert (image[0] == image[2]).all()
    return image[0]


def png_16(file):
    Image.fromarray(RAMP.astype(np.uint16)).save(file)


def pgm_16(file):
    file.write_bytes(b"P5 64 64 65535 " + RAMP.astype(">u2").tobytes())


def big_endian_tiff(file):
    Image.frombytes("I;16B", (64, 64), RAMP.astype(">u2").tobytes()).save(file)


@pytest.mark.parametrize(
    ("save", "name"), [(png_16, "a.png"), (png_16, "a.tif"), (big_endian_tiff, "a.tiff"), (pgm_16, "a.ppm")]
)
def test_sixteen_bits_are_scaled_by_257(tmp_path, save, name):
    config = folder(tmp_path, save, name)
    assert np.array_equal(loaded(config), np.floor(RAMP.astype(np.uint16) / 257 + 0.5))
    assert loaded(config).mean() == pytest.approx(127.5, abs=0.1)
    assert inspect_folder(tmp_path).problems == ()


def float_tiff(file):
    Image.fromarray((RAMP / 65535).astype(np.float32)).save(file)


def int_tiff(file):
    Image.fromarray(RAMP.astype(np.int32)).save(file)


@pytest.mark.parametrize("save", [float_tiff, int_tiff])
def test_image_of_unknown_range_is_refused_by_name(tmp_path, save):
    config = folder(tmp_path, save, "a.tif")
    for use in (describe_dataset, loaded):
        with pytest.raises(ConfigError, match=r"1 image cannot be read: .*a\.tif .*range is unknown"):
            use(config)
    assert "a.tif" in inspect_folder(tmp_path).problems[0]


def oriented(orientation, **options):
    """Return a function that saves the corners, stored as the orientation says."""
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    stored = np.kron(STORED.get(orientation, CORNERS), np.ones((32, 32), np.uint8))
    return lambda file: Image.fromarray(stored).save(file, exif=exif, **options)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("orientation", STORED)
def test_orientation_is_applied(tmp_path, orientation, name):
    options = {"quality": 100, **({"lossless": True} if name == "a.webp" else {})}
    image = loaded(folder(tmp_path, oriented(orientation, **options), name))
    assert np.abs(image[16::32, 16::32].astype(int) - CORNERS).max() <= 2


def test_size_of_a_turned_image_is_that_of_the_viewer(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    folder(tmp_path, lambda file: Image.new("RGB", (40, 30)).save(file, exif=exif), "a.jpg")
    assert inspect_folder(tmp_path).sizes == {(30, 40): 1, (64, 64): 1}


def test_damaged_exif_is_passed_over(tmp_path):
    picture = Image.fromarray(np.kron(CORNERS, np.ones((32, 32), np.uint8)))
    config = folder(tmp_path, lambda file: picture.save(file, exif=b"Exif\0\0damaged", quality=100), "a.jpg")
    assert np.abs(loaded(config)[16::32, 16::32].astype(int) - CORNERS).max() <= 2


def test_fingerprint_changes_with_orientation_and_depth_alone(tmp_path):
    config = folder(tmp_path)
    image = tmp_path / "train" / "ant" / "0.png"
    sources = {"upright": oriented(1), "turned": oriented(6), "deep": png_16}
    contents = {}
    for name, save in sources.items():
        save(tmp_path / f"{name}.png")
        contents[name] = (tmp_path / f"{name}.png").read_bytes()
    size = max(map(len, contents.values()))
    seen = {}
    for name, content in contents.items():
        image.write_bytes(content.ljust(size, b"\0"))
        seen[name] = describe_dataset(config).fingerprint
    assert len(set(seen.values())) == 3
    sizes = [f"train/ant/0.png {size}", f"val/ant/0.png {(tmp_path / 'val' / 'ant' / '0.png').stat().st_size}"]
    assert seen["upright"] == fingerprint_strings(sizes), "results stored by version 0.1.0 are found"
