"""CIFAR-100: loading from every layout, the cache, errors for missing or damaged files, the download."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from famba_core.config import ConfigError, DataConfig
from famba_core.data import cifar100
from famba_core.data.cifar100 import download_cifar100
from famba_core.data.datasets import check_dataset, describe_dataset, load_dataset, size_dataset
from famba_core.data.image_dataset import DatasetMissing

REAL = [Path(folder) for folder in (os.environ.get("FAMBA_DATA"), Path(__file__).parents[4] / "shared/data") if folder]


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    """Hide the machine's data sets and the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FAMBA_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def random_images(n, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write_parquet(path, images, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": png(image), "path": f"{i}.png"} for i, image in enumerate(images)]
    pq.write_table(pa.table({"img": cells, "fine_label": labels, "coarse_label": labels}), path)


def write_cifar(folder, seed=0):
    """Write seven training images in two files and three test images; return both as [n, 3, 32, 32]."""
    train, test = random_images(7, seed=seed), random_images(3, seed=seed + 1)
    write_parquet(folder / "train-00000-of-00002.parquet", train[:4], [5, 1, 2, 3])
    write_parquet(folder / "train-00001-of-00002.parquet", train[4:], [4, 99, 0])
    write_parquet(folder / "test-00000-of-00001.parquet", test, [7, 8, 9])
    return train.transpose(0, 3, 1, 2), test.transpose(0, 3, 1, 2)


def sentence(error):
    """Return the sentence of the only problem, which is one line."""
    (problem,) = error.value.problems
    assert "\n" not in problem.sentence
    return problem.sentence


@pytest.mark.parametrize("inside", ["cifar100", "cifar100/cifar100", "cifar100/data", "."])
@pytest.mark.parametrize("by", ["data_dir", "environment", "working folder"])
def test_parquet_is_found_and_decoded(tmp_path, monkeypatch, inside, by):
    root = tmp_path / "data" if by == "working folder" else tmp_path / "elsewhere"
    train, test = write_cifar(root / inside)
    if by == "environment":
        monkeypatch.setenv("FAMBA_DATA", str(root))
    data = load_dataset(DataConfig(data_dir=str(root) if by == "data_dir" else None), image_size=224)
    assert np.array_equal(data.train.images.numpy(), train)
    assert np.array_equal(data.test.images.numpy(), test)
    assert data.train.labels.tolist() == [5, 1, 2, 3, 4, 99, 0]
    assert data.test.labels.tolist() == [7, 8, 9]
    assert data.num_classes == 100


@pytest.mark.parametrize("train_images", [None, 6])
def test_description_agrees_with_the_loaded_set(tmp_path, train_images):
    write_cifar(tmp_path / "cifar100")
    config = DataConfig(data_dir=str(tmp_path), train_images=train_images)
    info, data = describe_dataset(config), load_dataset(config, image_size=32)
    assert (info.num_classes, info.train_images, info.test_images) == (100, train_images or 7, 3)
    assert (len(data.train.images), len(data.train.labels), len(data.test.labels)) == (train_images or 7,) * 2 + (3,)


def test_parquet_needs_no_pandas(tmp_path):
    write_cifar(tmp_path / "cifar100")
    script = """
import sys
sys.modules["pandas"] = None  # importing it fails
from famba_core.config import DataConfig
from famba_core.data.datasets import load_dataset
assert "pyarrow" not in sys.modules
assert len(load_dataset(DataConfig(dataset="cifar100", data_dir="."), 32).test.labels) == 3
"""
    package = Path(cifar100.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(package)},
    )
    assert done.returncode == 0, done.stderr


def forbid_decoding(monkeypatch):
    def decode(shards):
        raise AssertionError("decoded again")

    monkeypatch.setattr(cifar100, "_decode", decode)


def test_second_load_decodes_only_changed_files(tmp_path, monkeypatch):
    config = DataConfig(data_dir=str(tmp_path))
    write_cifar(tmp_path / "cifar100")
    first = load_dataset(config, image_size=32)
    with monkeypatch.context() as patched:
        forbid_decoding(patched)
        assert torch.equal(load_dataset(config, image_size=32).train.images, first.train.images)
    train, _ = write_cifar(tmp_path / "cifar100", seed=5)
    assert np.array_equal(load_dataset(config, image_size=32).train.images.numpy(), train)


def test_error_for_a_missing_set_names_the_folders_and_the_download(tmp_path, monkeypatch):
    monkeypatch.setenv("FAMBA_DATA", str(tmp_path / "mine"))
    for use in (describe_dataset, lambda config: load_dataset(config, image_size=32)):
        with pytest.raises(DatasetMissing) as error:
            use(DataConfig())
        assert error.value.problems[0].key == "dataset"
        for words in (
            str(tmp_path / "mine"),
            str(tmp_path / "data"),
            "train-*.parquet",
            "cifar-100-python",
            "famba-sweep data cifar100",
            "--data-dir",
            "FAMBA_DATA",
        ):
            assert words in sentence(error)


def test_data_dir_is_the_only_folder_searched(tmp_path, monkeypatch):
    write_cifar(tmp_path / "mine" / "cifar100")
    monkeypatch.setenv("FAMBA_DATA", str(tmp_path / "mine"))
    with pytest.raises(DatasetMissing, match="other") as error:
        describe_dataset(DataConfig(data_dir=str(tmp_path / "other")))
    assert error.value.problems[0].key == "data_dir"
    assert str(tmp_path / "mine") not in sentence(error)


def test_all_bad_parquet_files_are_reported_together(tmp_path):
    folder = tmp_path / "cifar100"
    write_cifar(folder)
    (folder / "train-00001-of-00002.parquet").unlink()
    (folder / "train-00000-of-00002.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(pa.table({"image": [1]}), folder / "test-00000-of-00001.parquet")
    with pytest.raises(ConfigError) as error:
        describe_dataset(DataConfig(data_dir=str(tmp_path)))
    sentences = [problem.sentence for problem in error.value.problems]
    assert len(sentences) == 3
    assert "1 of the 2 train files" in sentences[0]
    assert "train-00000-of-00002.parquet is not a readable Parquet file" in sentences[1]
    assert "test-00000-of-00001.parquet has no columns img and fine_label" in sentences[2]


@pytest.mark.parametrize("content", [b"no image", png(random_images(1)[0])[:200], png(random_images(1, size=16)[0])])
def test_error_for_a_bad_image_names_its_file(tmp_path, content):
    write_cifar(tmp_path / "cifar100")
    file = tmp_path / "cifar100" / "test-00000-of-00001.parquet"
    pq.write_table(pa.table({"img": [{"bytes": content, "path": "x.png"}], "fine_label": [0]}), file)
    with pytest.raises(ConfigError, match=str(file)):
        load_dataset(DataConfig(data_dir=str(tmp_path)), image_size=32)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (pa.array([7, None, 9], pa.int64()), "not null as in row 1"),
        (pa.array([100, 8, 101]), "not 100 as in row 0 (2 such rows)"),
        (pa.array([7, 8, -1], pa.int8()), "not -1 as in row 2"),
        (pa.array([7, 2.5, 9]), "not values of type double"),
        (pa.array(["7", "cat", "9"]), "not values of type string"),
        (pa.array([None, None, None]), "not values of type null"),
        (pa.array([True, False, True]), "not values of type bool"),
    ],
)
@pytest.mark.parametrize("name", ["train-00001-of-00002.parquet", "test-00000-of-00001.parquet"])
def test_a_label_that_is_no_class_is_named_with_file_and_column(tmp_path, labels, found, name):
    write_cifar(tmp_path / "cifar100")
    file = tmp_path / "cifar100" / name
    write_parquet(file, random_images(3), labels)
    with pytest.raises(ConfigError) as error:
        describe_dataset(DataConfig(data_dir=str(tmp_path)))
    assert sentence(error) == f"{file}: column fine_label must hold whole numbers from 0 to 99, {found}"


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_rows_is_refused(tmp_path, split):
    write_cifar(tmp_path / "cifar100")
    shards = sorted((tmp_path / "cifar100").glob(f"{split}-*"))
    for file in shards:
        pq.write_table(pq.read_table(file).slice(0, 0), file)
    with pytest.raises(ConfigError) as error:
        describe_dataset(DataConfig(data_dir=str(tmp_path)))
    assert f"the {split} split has 0 rows" in sentence(error)
    assert str(shards[0]) in sentence(error)


def test_an_empty_shard_beside_others_is_read(tmp_path):
    write_cifar(tmp_path / "cifar100")
    file = tmp_path / "cifar100" / "train-00001-of-00002.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    assert load_dataset(DataConfig(data_dir=str(tmp_path)), image_size=32).train.labels.tolist() == [5, 1, 2, 3]


@pytest.mark.parametrize("img", [{"bytes": None}, {"path": "x.png"}, None])
def test_an_image_that_is_not_there_is_found_by_a_check(tmp_path, img):
    write_cifar(tmp_path / "cifar100")
    file = tmp_path / "cifar100" / "test-00000-of-00001.parquet"
    cells = pa.array([img], pa.struct([("path", pa.string())]) if img and "path" in img else
                     pa.struct([("bytes", pa.binary())]))  # fmt: skip
    pq.write_table(pa.table({"img": cells, "fine_label": [0]}), file)
    with pytest.raises(ConfigError) as error:
        check_dataset(DataConfig(data_dir=str(tmp_path)), 32, [0])
    assert sentence(error).startswith(f"{file}: column img contains an image that cannot be used")


def test_the_missing_split_is_named(tmp_path):
    write_cifar(tmp_path / "cifar100")
    (tmp_path / "cifar100" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(DatasetMissing) as error:
        describe_dataset(DataConfig(data_dir=str(tmp_path)))
    assert f"{tmp_path} ({tmp_path / 'cifar100'} lacks test-*.parquet)" in sentence(error)


def test_published_sizes_count_until_the_files_are_there(tmp_path):
    info = size_dataset(DataConfig(train_images=500))
    assert (info.num_classes, info.train_images, info.test_images, info.fingerprint) == (100, 500, 10_000, None)
    (note,) = info.notes
    assert "cifar100 was not found" in note
    with pytest.raises(ConfigError, match="at most 50000"):
        size_dataset(DataConfig(train_images=50_001))
    write_cifar(tmp_path / "data" / "cifar100")
    assert size_dataset(DataConfig()) == describe_dataset(DataConfig())


def write_pickles(folder, monkeypatch):
    folder.mkdir(parents=True)
    images = {"train": random_images(50), "test": random_images(10, seed=1)}
    for name, content in {
        **{
            split: {"data": array.transpose(0, 3, 1, 2).reshape(-1, 3072), "fine_labels": list(range(len(array)))}
            for split, array in images.items()
        },
        "meta": {"fine_label_names": []},
    }.items():
        written = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(written)
        monkeypatch.setitem(cifar100.PICKLE_MD5, name, hashlib.md5(written).hexdigest())
    return {split: array.transpose(0, 3, 1, 2) for split, array in images.items()}


@pytest.mark.parametrize("inside", ["cifar100/cifar-100-python", "cifar-100-python", "cifar100", "."])
def test_original_pickles_are_read(tmp_path, monkeypatch, inside):
    images = write_pickles(tmp_path / "set" / inside, monkeypatch)
    config = DataConfig(data_dir=str(tmp_path / "set"))
    assert describe_dataset(config).train_images == 50_000  # the sizes of the published files, without unpickling
    data = load_dataset(DataConfig(data_dir=str(tmp_path / "set")), image_size=32)
    assert np.array_equal(data.train.images.numpy(), images["train"])
    assert np.array_equal(data.test.images.numpy(), images["test"])
    assert data.test.labels.tolist() == list(range(10))


class WritesAFile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_unpublished_pickle_is_never_unpickled(tmp_path, monkeypatch, name):
    folder = tmp_path / "cifar-100-python"
    write_pickles(folder, monkeypatch)
    (folder / name).write_bytes(pickle.dumps(WritesAFile(tmp_path / "executed")))
    for use in (describe_dataset, lambda config: load_dataset(config, image_size=32)):
        with pytest.raises(ConfigError) as error:
            use(DataConfig(data_dir=str(tmp_path)))
        assert str(folder / name) in sentence(error)
        assert cifar100.PICKLE_MD5[name] in sentence(error)
    assert not (tmp_path / "executed").exists()
    pickle.loads((folder / name).read_bytes()).close()
    assert (tmp_path / "executed").exists()


def test_downloaded_set_is_found(tmp_path, monkeypatch):
    def snapshot_download(repository, *, repo_type, allow_patterns, local_dir):
        assert (repository, repo_type) == ("uoft-cs/cifar100", "dataset")
        assert all(Path("cifar100/train-00000-of-00001.parquet").match(pattern) for pattern in allow_patterns)
        write_cifar(local_dir / "cifar100")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert download_cifar100(tmp_path / "data") == tmp_path / "data" / "cifar100"
    assert describe_dataset(DataConfig()).train_images == 7


@pytest.mark.parametrize("error", [ConnectionError("no route to host\nTry again."), RuntimeError()])
def test_failed_download_is_one_sentence(tmp_path, monkeypatch, error):
    def snapshot_download(*args, **kwargs):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ConfigError) as raised:
        download_cifar100(tmp_path)
    assert "uoft-cs/cifar100" in sentence(raised)
    assert (str(error).split("\n")[0] or "RuntimeError") in sentence(raised)


@pytest.mark.skipif(
    not any((folder / "cifar100").is_dir() for folder in REAL), reason="needs CIFAR-100 in FAMBA_DATA or ../shared/data"
)
def test_real_cifar100_has_the_published_means():
    folder = next(folder for folder in REAL if (folder / "cifar100").is_dir())
    data = load_dataset(DataConfig(data_dir=str(folder)), image_size=32)
    assert data.train.labels.bincount().tolist() == [500] * 100
    assert data.test.labels.bincount().tolist() == [100] * 100
    # the published means of the channels; the order of the images differs between copies of the set
    published = ((0.50707516, 0.48654887, 0.44091784), (0.50879641, 0.48739301, 0.44194221))
    for split, means in zip((data.train, data.test), published, strict=True):
        sums = split.images.sum(dim=(0, 2, 3), dtype=torch.int64)
        assert (sums / 255 / (len(split.images) * 32 * 32)).tolist() == pytest.approx(means, abs=1e-7)
