"""CIFAR-100 (Krizhevsky 2009) in either public layout: Parquet files, or the original pickles."""

from __future__ import annotations

import hashlib
import io
import itertools
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from famba_core.config import ConfigError, DataConfig
from famba_core.data.file_cache import Arrays, cached_arrays, fingerprint_files
from famba_core.data.image_dataset import Choose, FoundDataset, Split, missing_dataset, search_folders

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

HUB_REPOSITORY = "uoft-cs/cifar100"  # of the Hugging Face hub
NUM_CLASSES = 100
IMAGE_SIZE = 32
PUBLISHED_ROWS = {"train": 50_000, "test": 10_000}
PICKLE_MD5 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}


def find(config: DataConfig) -> FoundDataset:
    """Return the set in the first folder with both splits.

    The layouts are those of a download from the hub, of a plain copy of its files, and of the original archive.
    """
    for folder in (place for root in search_folders(config) for place in _places(root)):
        shards = _shards(folder)
        if all(shards.values()):
            return _find_parquet(shards)
        if all((folder / name).is_file() for name in PICKLE_MD5):
            return _find_pickles(folder)
    raise missing_dataset(
        config,
        lacks=_lacks,
        wanted="cifar100/ with train-*.parquet and test-*.parquet, or cifar-100-python/ with train, test and meta",
        remedy="download it with `famba-sweep data cifar100`, or name the folder that contains cifar100/ with "
        "--data-dir or FAMBA_DATA",
    )


def _places(root: Path) -> Iterator[Path]:
    """Yield the folders in which the files of either layout may lie."""
    for place in itertools.product(("cifar100", ""), ("", "cifar100", "data", "cifar-100-python")):
        yield root.joinpath(*place)


def _shards(folder: Path) -> dict[str, list[Path]]:
    return {split: sorted(folder.glob(f"{split}-*.parquet")) for split in PUBLISHED_ROWS}


def _lacks(root: Path) -> str:
    """Say which files are missing beside others that are there."""
    for folder in _places(root):
        files = {f"{split}-*.parquet": bool(shards) for split, shards in _shards(folder).items()}
        originals = {name: (folder / name).is_file() for name in PICKLE_MD5}
        for there in (files, originals):
            if any(there.values()):
                missing = [name for name, is_there in there.items() if not is_there]
                return f"{folder} lacks {' and '.join(missing)}"
    return "has none of the files"


def _found(rows: dict[str, int], paths: Sequence[Path], read: Callable[[str], Split]) -> FoundDataset:
    """Return the set of files that `read` reads by split. The images are 32 x 32, in the order of the files."""

    def load(image_size: int, choose_train: Choose, choose_test: Choose) -> tuple[Split, Split]:
        train, test = read("train"), read("test")
        return train.subset(choose_train(train.labels)), test.subset(choose_test(test.labels))

    def check(image_size: int, trains: Sequence[Choose], test: Choose) -> None:
        for split in rows:
            read(split)

    return FoundDataset(
        num_classes=NUM_CLASSES,
        train_images=rows["train"],
        test_images=rows["test"],
        fingerprint=lambda: fingerprint_files(paths),
        load=load,
        check=check,
    )


def _find_parquet(files: dict[str, list[Path]]) -> FoundDataset:
    """Return the set in the given shards of each split. Raises ConfigError for all missing or unreadable shards."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    problems = []
    rows = dict.fromkeys(files, 0)
    for split, shards in files.items():
        of = re.search(r"-of-(\d+)$", shards[-1].stem)
        if of and len(shards) != int(of[1]):
            problems.append(f"{shards[-1].parent} contains {len(shards)} of the {int(of[1])} {split} files")
        for shard in shards:
            try:
                with ParquetFile(shard) as file:
                    rows[split] += file.metadata.num_rows
                    problems += _shard_problems(file, shard)
            except (OSError, pa.ArrowException) as error:
                problems.append(f"{shard} is not a readable Parquet file ({error})")
        if not rows[split] and not problems:
            problems.append(f"{', '.join(map(str, shards))}: the {split} split has 0 rows, and needs at least 1")
    if problems:
        raise ConfigError.of("dataset", *problems)

    def read(split: str) -> Split:
        arrays = cached_arrays(f"cifar100-{split}", files[split], lambda: _decode(files[split]))
        return Split(images=torch.from_numpy(arrays["images"]), labels=torch.from_numpy(arrays["labels"]))

    return _found(rows, [*files["train"], *files["test"]], read)


def _shard_problems(file: ParquetFile, shard: Path) -> Iterator[str]:
    """Yield what is wrong with the columns of a file. Images are not decoded."""
    import pyarrow as pa

    missing = [name for name in ("img", "fine_label") if name not in file.schema_arrow.names]
    if missing:
        yield f"{shard} has no columns {' and '.join(missing)}"
        return
    rule = f"column fine_label must hold whole numbers from 0 to {NUM_CLASSES - 1}"
    kind = file.schema_arrow.field("fine_label").type
    if not pa.types.is_integer(kind):
        yield f"{shard}: {rule}, not values of type {kind}"
        return
    labels = file.read(columns=["fine_label"])["fine_label"].to_pylist()
    wrong = [(row, label) for row, label in enumerate(labels) if label is None or not 0 <= label < NUM_CLASSES]
    if wrong:
        row, label = wrong[0]
        more = f" ({len(wrong)} such rows)" if wrong[1:] else ""
        yield f"{shard}: {rule}, not {'null' if label is None else label} as in row {row}{more}"


def _decode(shards: Sequence[Path]) -> Arrays:
    """Return images uint8 [n, 3, 32, 32] and labels int64 [n]. Raises ConfigError unless all are 32 x 32 pixels."""
    from PIL import Image
    from pyarrow.parquet import ParquetFile

    images, labels = [], []
    for shard in shards:
        try:
            # read_table would do the same, but imports pandas
            table = ParquetFile(shard).read(columns=["img", "fine_label"])
            for file in table["img"].to_pylist():
                image = Image.open(io.BytesIO(file["bytes"])).convert("RGB")
                images.append(np.asarray(image).reshape(IMAGE_SIZE, IMAGE_SIZE, 3))
        except Exception as error:  # for damaged images Pillow raises errors of many kinds
            sentence = f"{shard}: column img contains an image that cannot be used ({error})"
            raise ConfigError.of("dataset", sentence) from error
        labels += table["fine_label"].to_pylist()
    channels_first = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
    return {"images": channels_first, "labels": np.array(labels, dtype=np.int64)}


def _find_pickles(folder: Path) -> FoundDataset:
    """Return the set of the original archive in a folder."""
    for name in PICKLE_MD5:
        _read_published(folder / name)

    def read(split: str) -> Split:
        content = pickle.loads(_read_published(folder / split), encoding="latin1")
        return Split(
            images=torch.from_numpy(content["data"].reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE)),
            labels=torch.tensor(content["fine_labels"]),
        )

    return _found(PUBLISHED_ROWS, [folder / split for split in PUBLISHED_ROWS], read)


def _read_published(file: Path) -> bytes:
    """Return the content of a published file. Raises ConfigError for any other: unpickling can execute its content."""
    content = file.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != PICKLE_MD5[file.name]:
        sentence = f"{file} is damaged or not CIFAR-100: its md5 must be {PICKLE_MD5[file.name]}, not {found}"
        raise ConfigError.of("dataset", sentence)
    return content


def download_cifar100(folder: Path) -> Path:
    """Download the public Parquet set (about 140 MB) from the Hugging Face hub to `folder`/cifar100 and return that.

    Complete files that exist already are not downloaded again. Raises ConfigError if the network or the disk fails.
    """
    from huggingface_hub import snapshot_download

    target = folder / "cifar100"
    try:
        snapshot_download(HUB_REPOSITORY, repo_type="dataset", allow_patterns=["*.parquet"], local_dir=target)
    except Exception as error:  # the hub's releases raise the errors of different HTTP libraries
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError.of("dataset", f"{HUB_REPOSITORY} could not be downloaded to {target} ({reason})") from error
    return target
