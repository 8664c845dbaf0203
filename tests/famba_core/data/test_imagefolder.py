"""Image folders: decoding, and the errors for folders that cannot be used."""

import numpy as np
import pytest
import torch
from PIL import Image

from famba_core.config import ConfigError, DataConfig
from famba_core.data.datasets import describe_dataset, load_dataset
from famba_core.data.image_dataset import DatasetMissing


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
    assert torch.equal(load_dataset(config, image_size=28).train.images, chosen.images)


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


def test_missing_image_folder_is_reported(tmp_path):
    (tmp_path / "train" / "ant").mkdir(parents=True)
    with pytest.raises(DatasetMissing, match="val/<class>/") as error:
        describe_dataset(DataConfig(dataset="imagefolder", data_dir=str(tmp_path)))
    assert str(tmp_path) in sentence(error)
