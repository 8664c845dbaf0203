"""What stored results say of predicted times on their device: how far off the median is, and how much they scatter."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from famba_core.config import ConfigError, DataConfig, ModelConfig
from sweep.errors import UserError
from sweep.price.device import PoolDevice
from sweep.price.training_time import device_seconds
from sweep.store.layout import StudyPaths
from sweep.store.study import read_rows

FEW_ROWS = 3  # with fewer the band is a guess
MOST_ROWS = 500  # the newest, of each study and of all: a median needs no more
COLUMNS = (
    "status", "source", "backbone", "image_size", "patch_size", "cls_position", "schedule", "batch_size", "precision",
    "dataset", "train_images", "epochs", "top1_ema_pct", "cpus_per_trial", "gpus_per_trial", "train_time_s",
    "device_name", "finished_at",
)  # fmt: skip


class Calibration(NamedTuple):
    """Factors by which to multiply a predicted time."""

    factor: float = 1.0  # the median of measured over predicted
    low: float = 0.5  # of the band that it is likely to be in
    high: float = 2.0
    rows: int = 0  # stored results behind it

    @property
    def sentence(self) -> str:
        if not self.rows:
            return "no stored row of this device yet: a factor of 2 either way"
        if self.rows < FEW_ROWS:
            return f"only {self.rows} stored row{'s' * (self.rows > 1)} of this device: a factor of 1.5 either way"
        return f"band from {self.rows} stored rows of this device"


def calibrate(results: Path, device: PoolDevice, data: DataConfig, train_images: int) -> Calibration:
    """From the completed results on the same device in the studies of a results folder, whatever they trained.

    Args:
        data, train_images: of the plan at hand. Rows do not say how large their data set was: where a row of another
            one does not name the part that it trained on, it is left out, unless the set is here.
    """
    frames = [rows for folder in _studies(results) if len(rows := _rows(folder, device))]
    if not frames:
        return Calibration()
    rows = pd.concat(frames).sort_values("finished_at").tail(MOST_ROWS)
    is_known = data.train_images is None and data.dataset != "imagefolder"  # whose rows may be of any folder
    sizes: dict[str, int] = {data.dataset: train_images} if is_known else {}
    ratios = [ratio for row in rows.to_dict("records") if (ratio := _ratio(row, device, sizes))]
    if not ratios:
        return Calibration()
    low, middle, high = (float(q) for q in np.quantile(ratios, (0.1, 0.5, 0.9)))
    if len(ratios) < FEW_ROWS:
        low, high = middle / 1.5, middle * 1.5
    return Calibration(factor=middle, low=low, high=high, rows=len(ratios))


def _studies(results: Path) -> Iterator[Path]:
    try:
        folders = sorted(results.iterdir())
    except OSError:
        return
    for folder in folders:
        with contextlib.suppress(OSError):  # another user's
            if StudyPaths(folder).plan.is_file():
                yield folder


def _rows(folder: Path, device: PoolDevice) -> pd.DataFrame:
    try:
        rows, _ = read_rows(folder, columns=COLUMNS, newest=MOST_ROWS)
    except (UserError, OSError):  # another study's damage is no reason to refuse this one
        return pd.DataFrame()
    own = (rows["status"] == "completed") & rows["source"].isna() & (rows["train_time_s"] > 0)
    return rows[own & rows["device_name"].fillna("").map(device.is_named).astype(bool)]


def _ratio(row: Mapping[Hashable, Any], device: PoolDevice, sizes: dict[str, int]) -> float | None:
    """Measured over predicted device time, None where the row does not say how much was trained, or of what."""
    images = sizes.get(row["dataset"]) if pd.isna(row["train_images"]) else int(row["train_images"])
    if images is None:
        images = sizes[row["dataset"]] = _whole_set(row["dataset"])  # asked for once
    if not images:
        return None
    gpus, threads = row["gpus_per_trial"], int(row["cpus_per_trial"])
    try:
        predicted = device_seconds(
            device,
            ModelConfig(
                backbone=row["backbone"],
                image_size=int(row["image_size"]),
                patch_size=int(row["patch_size"]),
                cls_position=row["cls_position"],
            ),
            row["schedule"],
            batch=int(row["batch_size"]),
            precision=row["precision"],
            ema=not pd.isna(row["top1_ema_pct"]),
            recompute=False,  # no column says so; it costs an eighth more at most
            images=images,
            epochs=int(row["epochs"]),
            threads=threads,
        )
    except (ConfigError, KeyError, ValueError):  # of a newer version, whose models this one does not know
        return None
    return row["train_time_s"] * (gpus if device.gpu else threads) / predicted


def _whole_set(dataset: Any) -> int:
    """Training images of a data set; 0 where it is not here, or is a folder of anything."""
    from famba_core.data.datasets import describe_dataset

    if dataset == "imagefolder":
        return 0
    try:
        return describe_dataset(DataConfig(dataset=dataset)).train_images
    except ConfigError:
        return 0
