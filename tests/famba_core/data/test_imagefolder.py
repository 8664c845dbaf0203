"""Image folders: decoding, and the errors for folders that cannot be used."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from famba_core.config import ConfigError, DataConfig
from famba_core.data import image_files
from famba_core.data.datasets import check_dataset, describe_dataset, load_dataset
from famba_core.data.image_dataset import DatasetMissing


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def sentence(error):
    """Return the sentence of the only problem, which is one line."""
    (problem,) = error.value.problems
    assert "\n" not in problem.sentence
    return problem.sentence


def write_image_folder(root, test="val", classes=("ant", "bee")):
    for split, count in (("train", 3), (test, 1)):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (60, 40), (10 * label, 20 * i, 30)).save(folder / f"{i}.png")
            (folder / "notes.txt").write_text("no image")


@pytest.mark.parametrize("test", ["val", "test"])
def test_images_are_read_in_the_order_of_their_names(tmp_path, test):
    write_image_folder(tmp_path, test)
    data = load_dataset(DataConfig(dataset="imagefolder", data_dir=str(tmp_path)), image_size=28)
    assert data.train.images.shape == (6, 3, 32, 32)  # 28 * 256 / 224
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.labels.tolist() == [0, 1]
    assert data.train.images[:, :, 7, 7].tolist() == [
        [0, 0, 30],
        [0, 20, 30],
        [0, 40, 30],
        [10, 0, 30],
        [10, 20, 30],
        [10, 40, 30],
    ]
    assert data.num_classes == 2
    info = describe_dataset(DataConfig(dataset="imagefolder", data_dir=str(tmp_path)))
    assert (info.num_classes, info.train_images, info.test_images) == (2, 6, 2)


def test_image_is_scaled_by_its_shorter_side_and_cropped_to_its_centre(tmp_path):
    write_image_folder(tmp_path)
    picture = np.kron(np.arange(0, 240, 40, dtype=np.uint8)[None, :, None], np.ones((64, 16, 3), np.uint8))
    for transposed, file in ((picture, "0.png"), (picture.transpose(1, 0, 2), "1.png")):
        Image.fromarray(transposed).save(tmp_path / "train" / "ant" / file)  # 96 x 64 and 64 x 96
    Image.new("L", (64, 64), 90).save(tmp_path / "train" / "ant" / "2.png")
    wide, tall, grey = load_dataset(
        DataConfig(dataset="imagefolder", data_dir=str(tmp_path)), image_size=28
    ).train.images[:3]
    # of six bands of 16 pixels the outer two are cropped; at half the size, the middle of each has its colour
    assert wide[0, 16, 4::8].tolist() == [40, 80, 120, 160]
    assert torch.equal(tall, wide.transpose(1, 2))
    assert torch.equal(grey, torch.full((3, 32, 32), 90, dtype=torch.uint8))


def test_only_the_chosen_subset_is_decoded(tmp_path):
    write_image_folder(tmp_path)
    config = DataConfig(dataset="imagefolder", data_dir=str(tmp_path), train_images=2)
    chosen = load_dataset(config, image_size=28).train
    assert chosen.labels.tolist() == [0, 1]
    used = {(label, int(image[1, 0, 0]) // 20) for image, label in zip(chosen.images, [0, 1], strict=True)}
    for label, name in enumerate(("ant", "bee")):
        for i in range(3):
            if (label, i) not in used:
                (tmp_path / "train" / name / f"{i}.png").write_bytes(b"damaged")
    config = replace(config, test_images=1)
    (label,) = load_dataset(config, image_size=28).test.labels.tolist()
    (tmp_path / "val" / ("bee", "ant")[label] / "0.png").write_bytes(b"damaged")
    data = load_dataset(config, image_size=28)
    assert torch.equal(data.train.images, chosen.images)
    assert len(data.test.labels) == 1
    check_dataset(config, 28, [0])


def test_unreadable_images_are_listed(tmp_path):
    write_image_folder(tmp_path)
    bad = [tmp_path / "train" / "ant" / "0.png", tmp_path / "train" / "bee" / "2.png"]
    bad[0].write_bytes(b"no image")
    bad[1].write_bytes(bad[1].read_bytes()[:60])
    with pytest.raises(ConfigError) as error:
        load_dataset(DataConfig(dataset="imagefolder", data_dir=str(tmp_path)), image_size=28)
    assert sentence(error).startswith("2 images cannot be read")
    assert all(str(file) in sentence(error) for file in bad)


def test_all_classes_that_do_not_match_are_named(tmp_path):
    write_image_folder(tmp_path)
    (tmp_path / "train" / "cat").mkdir()
    (tmp_path / "val" / "dog").mkdir()
    with pytest.raises(ConfigError) as error:
        describe_dataset(DataConfig(dataset="imagefolder", data_dir=str(tmp_path)))
    text = str(error.value)
    assert f"{tmp_path / 'val'} has no folder cat" in text
    assert f"{tmp_path / 'train'} has no folder dog" in text
    assert f"{tmp_path / 'train' / 'cat'} contains no image" in text


def test_set_too_large_for_memory_is_refused_with_the_estimate(tmp_path):
    write_image_folder(tmp_path)
    with pytest.raises(ConfigError) as error:
        load_dataset(DataConfig(dataset="imagefolder", data_dir=str(tmp_path)), image_size=28_000)
    assert f"{8 * 3 * 32_000**2 / 2**30:.1f} GiB" in sentence(error)


@pytest.mark.parametrize(
    ("there", "lacks"),
    [
        (["train"], "val/ (or test/) is missing"),
        (["val"], "train/ is missing"),
        (["test", "Train"], "train/ is missing"),
        ([], "train/ and val/ (or test/) are missing"),
    ],
)
def test_the_missing_split_is_named(tmp_path, there, lacks):
    for split in there:
        (tmp_path / split / "ant").mkdir(parents=True)
    with pytest.raises(DatasetMissing) as error:
        describe_dataset(DataConfig(dataset="imagefolder", data_dir=str(tmp_path)))
    assert f"searched {tmp_path} ({lacks}) for train/<class>/ and val/<class>/" in sentence(error)


def test_a_missing_folder_is_told_from_a_missing_split(tmp_path):
    with pytest.raises(DatasetMissing) as error:
        describe_dataset(DataConfig(dataset="imagefolder", data_dir=str(tmp_path / "nowhere")))
    assert f"{tmp_path / 'nowhere'} (there is no such folder)" in sentence(error)


def test_images_in_folders_inside_a_class_are_read(tmp_path):
    write_image_folder(tmp_path)
    config = DataConfig(dataset="imagefolder", data_dir=str(tmp_path))
    before = describe_dataset(config)
    inner = tmp_path / "train" / "ant" / "1" / "deeper"
    inner.mkdir(parents=True)
    Image.new("RGB", (8, 8), (200, 0, 0)).save(inner / "x.jfif", "JPEG")
    Image.new("L", (8, 8), 100).save(inner / "y.pgm")
    (inner / "back").symlink_to(tmp_path / "train" / "ant")
    (inner / ".hidden.png").touch()
    after = describe_dataset(config)
    assert (before.train_images, after.train_images) == (6, 8)
    assert before.fingerprint != after.fingerprint
    data = load_dataset(config, image_size=28)
    assert data.train.labels.tolist() == [0] * 5 + [1] * 3
    # in the order of paths: 0.png, 1/deeper/x.jfif, 1/deeper/y.pgm, 1.png
    assert data.train.images[2].unique().tolist() == [100]


def test_files_that_are_left_out_are_named(tmp_path):
    write_image_folder(tmp_path)
    config = DataConfig(dataset="imagefolder", data_dir=str(tmp_path))
    for name in ("a.heic", "b.HEIC", "c", ".DS_Store"):
        (tmp_path / "train" / "ant" / name).write_bytes(b"x")
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "stray.png")
    train, stray, val = describe_dataset(config).notes
    first = tmp_path / "train" / "ant" / "a.heic"
    assert train == f"files that are not read as images are left out: {first} and 4 more (.heic 2, .txt 2, no ending 1)"
    assert stray == f"images that are in no class folder are left out: {tmp_path / 'val' / 'stray.png'}"
    assert val.endswith("notes.txt and 1 more (.txt 2)")


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_an_image_without_a_readable_header_is_refused_before_decoding(tmp_path, content):
    write_image_folder(tmp_path)
    (tmp_path / "val" / "bee" / "0.png").write_bytes(content)
    with pytest.raises(ConfigError, match=r"1 image cannot be read: .*val/bee/0\.png"):
        describe_dataset(DataConfig(dataset="imagefolder", data_dir=str(tmp_path)))


def test_an_image_that_cannot_be_decoded_is_found_by_a_check(tmp_path, monkeypatch):
    write_image_folder(tmp_path)
    config = DataConfig(dataset="imagefolder", data_dir=str(tmp_path))
    check_dataset(config, 28, [0, 1])
    with monkeypatch.context() as patched:
        patched.setattr(image_files, "read_rgb", lambda image: pytest.fail("decoded again"))
        check_dataset(config, 28, [0, 1])
    torn = tmp_path / "train" / "ant" / "0.png"
    torn.write_bytes(torn.read_bytes()[:60])
    describe_dataset(config)
    with pytest.raises(ConfigError, match="1 image cannot be read") as error:
        check_dataset(config, 28, [0, 1])
    assert str(torn) in sentence(error)


def test_a_check_finds_what_does_not_fit_in_memory(tmp_path):
    write_image_folder(tmp_path)
    with pytest.raises(ConfigError, match="GiB of memory"):
        check_dataset(DataConfig(dataset="imagefolder", data_dir=str(tmp_path)), 28_000, [0])
