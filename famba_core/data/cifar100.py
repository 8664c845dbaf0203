"""CIFAR-100 (Krizhevsky 2009) from either of its public layouts: Parquet files, or the original pickles."""

from __future__ import annotations

import hashlib
import io
import itertools
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from famba_core.config import ConfigError, DataConfig
from famba_core.data import fingerprint
from famba_core.data.cache import Arrays, cached_arrays
from famba_core.data.folders import data_folders, dataset_missing
from famba_core.data.image_dataset import IMAGENET_MEAN, IMAGENET_STD, DatasetInfo, ImageDataset, Split
from famba_core.data.part import balanced_part, part_size

NUM_CLASSES = 100
IMAGE_SIZE = 32
PICKLE_ROWS = {"train": 50_000, "test": 10_000}
PICKLE_MD5 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}


@dataclass(frozen=True, kw_only=True)
class _Files:
    """What was found on disk: how many images each split has, and how to read one."""

    rows: dict[str, int]
    paths: Sequence[Path]  # in the order of the images
    read: Callable[[str], Split]


def describe(config: DataConfig) -> DatasetInfo:
    files = _find(config)
    return DatasetInfo(
        num_classes=NUM_CLASSES,
        train_images=part_size(config, files.rows["train"]),
        test_images=files.rows["test"],
        fingerprint=fingerprint.of_contents(files.paths),
    )


def load(config: DataConfig, image_size: int, seed: int) -> ImageDataset:
    """32 x 32 whatever `image_size` is. The order of the images is that of the files found."""
    files = _find(config)
    train = files.read("train")
    part = balanced_part(train.labels, part_size(config, len(train.labels)), seed)
    return ImageDataset(
        name="cifar100",
        train=Split(images=train.images[part], labels=train.labels[part]),
        test=files.read("test"),
        num_classes=NUM_CLASSES,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _find(config: DataConfig) -> _Files:
    """The first folder with both splits: those of a download from the hub, of a plain copy, of the original archive."""
    places = itertools.product(data_folders(config), ("cifar100", ""), ("", "cifar100", "data", "cifar-100-python"))
    for place in places:
        folder = Path(*place)
        train, test = (sorted(folder.glob(f"{split}-*.parquet")) for split in ("train", "test"))
        if train and test:
            return _parquet_files({"train": train, "test": test})
        if all((folder / name).is_file() for name in PICKLE_MD5):
            return _pickle_files(folder)
    raise dataset_missing(
        config,
        wanted="cifar100/ with train-*.parquet and test-*.parquet, or cifar-100-python/ with train, test and meta",
        remedy="fetch it with `famba-sweep data cifar100`, or name the folder that holds cifar100/ with --data-dir "
        "or FAMBA_DATA",
    )


def _parquet_files(files: dict[str, list[Path]]) -> _Files:
    import pyarrow as pa
    from pyarrow.parquet import read_metadata

    problems = []
    rows = dict.fromkeys(files, 0)
    for split, shards in files.items():
        of = re.search(r"-of-(\d+)$", shards[-1].stem)
        if of and len(shards) != int(of[1]):
            problems.append(f"{shards[-1].parent} holds {len(shards)} of the {int(of[1])} {split} files")
        for shard in shards:
            try:
                metadata = read_metadata(shard)
            except (OSError, pa.ArrowException) as error:
                problems.append(f"{shard} is not a Parquet file that can be read ({error})")
                continue
            rows[split] += metadata.num_rows
            if not {"img", "fine_label"} <= set(metadata.schema.to_arrow_schema().names):
                problems.append(f"{shard} has no columns img and fine_label")
    if problems:
        raise ConfigError([("dataset", problem) for problem in problems])

    def read(split: str) -> Split:
        arrays = cached_arrays(f"cifar100-{split}", files[split], lambda: _decode(files[split]))
        return Split(images=torch.from_numpy(arrays["images"]), labels=torch.from_numpy(arrays["labels"]))

    return _Files(rows=rows, paths=[*files["train"], *files["test"]], read=read)


def _decode(shards: Sequence[Path]) -> Arrays:
    """images uint8 [n, 3, 32, 32] and labels int64 [n]. Raises ConfigError for what is no image of 32 x 32 pixels."""
    import pyarrow as pa
    from PIL import Image
    from pyarrow.parquet import ParquetFile

    images, labels = [], []
    for shard in shards:
        try:
            # read_table would do the same, and import pandas.
            table = ParquetFile(shard).read(columns=["img", "fine_label"])
            for file in table["img"].to_pylist():
                image = Image.open(io.BytesIO(file["bytes"])).convert("RGB")
                images.append(np.asarray(image).reshape(IMAGE_SIZE, IMAGE_SIZE, 3))
        except (OSError, ValueError, SyntaxError, TypeError, pa.ArrowException) as error:
            raise ConfigError([("dataset", f"{shard} holds an image that cannot be used ({error})")]) from error
        labels += table["fine_label"].to_pylist()
    channels_first = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
    return {"images": channels_first, "labels": np.array(labels, dtype=np.int64)}


def _pickle_files(folder: Path) -> _Files:
    for name in PICKLE_MD5:
        _published_bytes(folder / name)

    def read(split: str) -> Split:
        content = pickle.loads(_published_bytes(folder / split), encoding="latin1")
        return Split(
            images=torch.from_numpy(content["data"].reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE)),
            labels=torch.tensor(content["fine_labels"]),
        )

    return _Files(rows=PICKLE_ROWS, paths=[folder / split for split in PICKLE_ROWS], read=read)


def _published_bytes(file: Path) -> bytes:
    """The file's content. Unpickling runs what the file says, so only the published files are let through."""
    content = file.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != PICKLE_MD5[file.name]:
        raise ConfigError(
            [
                (
                    "dataset",
                    f"{file} has md5 {found}, and the published file {PICKLE_MD5[file.name]}: it is "
                    "damaged or not CIFAR-100, and is not unpickled",
                )
            ]
        )
    return content
