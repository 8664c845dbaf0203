"""Predicts how long a trial trains on a device: by the cost model, corrected by stored training times."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from famba_core.config import ConfigError, DataConfig, ModelConfig, Precision, TrainConfig
from famba_core.cost.data_sheets import cpu_limits, known_limits
from famba_core.cost.roofline import Limits
from famba_core.cost.work import StepSettings, step_cost
from famba_core.paper.published import read_published_table
from sweep.errors import UserError
from sweep.files.names import list_names
from sweep.plan.model import Trial
from sweep.price.device import PoolDevice, trials_per_gpu
from sweep.price.measured_steps import find_measured
from sweep.store.layout import StudyPaths
from sweep.store.study import read_rows
from sweep.text import plural

# A measurement of a training step; the workers measure with these numbers.
MEASURE_START_S = 1.0  # the data and the model; the measurements of a run share a process
MEASURE_BUDGET_S = 0.6  # of timed steps
LEAST_TIMED_STEPS = 5
WARMUP_STEPS = {"cpu": 2, "cuda": 5}  # the first steps create the optimizer's state, compile kernels, capture graphs
FEW_ROWS = 3  # with fewer the range is a guess
MOST_ROWS = 500  # the newest ones, of each study and of all: enough for a median
COLUMNS = (
    "status", "source", "backbone", "image_size", "patch_size", "cls_position", "schedule", "batch_size", "precision",
    "dataset", "train_images", "epochs", "top1_ema_pct", "cpus_per_trial", "gpus_per_trial", "train_time_s",
    "device_name", "finished_at", "order", "weighting", "recompute", "peak_memory_mib",
)  # fmt: skip

# Vim-Ti without token fusion on an A100: 300 epochs of 50,000 images in batches of 128 (Famba-V section 4).
_PAPER_MODEL, _PAPER_BATCH = ModelConfig(backbone="vim_tiny"), 128
_PAPER_STEPS = 300 * (50_000 // _PAPER_BATCH)


def device_seconds(
    device: PoolDevice, model: ModelConfig, schedule: Sequence[int], train: TrainConfig, *, images: int, threads: int
) -> float:
    """Return the seconds of training that one GPU, or one CPU thread, spends on a trial.

    A GPU without a known data sheet counts as an A100. Every GPU is assumed to be as far below its sheet as the
    paper's was.

    Args:
        images: in an epoch.
        threads: of the trial, on a CPU.
    """
    batch, precision = min(train.batch_size, images), train.precision
    steps = train.epochs * steps_per_epoch(train, images)
    step = step_cost(model, schedule, replace(StepSettings.of(train), batch=batch))
    if device.gpu:
        return steps * step.time_s(_gpu_limits(device.name, precision)) * _slowdown_against_sheet()
    return steps * step.time_s(cpu_limits(threads, precision)) * threads


def steps_per_epoch(train: TrainConfig, images: int) -> int:
    """Return the training steps of an epoch of so many images. A batch is at most all of them."""
    return images // min(train.batch_size, images)


def measuring_s(step_s: float, *, gpu: bool) -> float:
    """Return the seconds that it takes to measure a training step of `step_s` seconds."""
    memory = 0 if gpu else 1  # a step of its own
    untimed = WARMUP_STEPS["cuda" if gpu else "cpu"] + memory
    return MEASURE_START_S + untimed * step_s + max(LEAST_TIMED_STEPS * step_s, MEASURE_BUDGET_S)


@functools.cache
def _slowdown_against_sheet() -> float:
    """Return the paper's training time over that predicted from the data sheet of its GPU."""
    step = step_cost(_PAPER_MODEL, [0] * _PAPER_MODEL.sizes.depth, StepSettings(batch=_PAPER_BATCH))
    published = next(row for row in read_published_table(1) if (row.backbone, row.strategy) == ("vim_tiny", "none"))
    return published.train_time_s / (_PAPER_STEPS * step.time_s(_gpu_limits("A100", "float32")))


@functools.cache
def _gpu_limits(name: str | None, precision: Precision) -> Limits:
    limits = known_limits(name or "A100", precision) or known_limits("A100", precision)
    assert limits is not None
    return limits


class StoredStep(NamedTuple):
    """What is stored of a configuration's training step on this device."""

    ratio: float  # measured over predicted time
    peak_mib: float | None  # of its tensors


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Factors to multiply a predicted time by."""

    factor: float = 1.0  # median of measured over predicted time
    low: float = 0.5  # low and high end of the likely range
    high: float = 2.0
    rows: int = 0  # number of stored rows used
    measured: int = 0  # number of stored measurements, if there is no row
    steps: Mapping[Hashable, StoredStep] = field(default_factory=dict)  # of configurations, by what defines the step

    def find(self, trial: Trial) -> StoredStep | None:
        """Return what is stored of the trial's step; None if this configuration has not run on this device."""
        return self.steps.get(_step_of_trial(trial)) if self.steps else None

    @property
    def sentence(self) -> str:
        if self.measured:
            return f"only {plural(self.measured, 'stored measurement')} of this device: a factor of 1.5 either way"
        if not self.rows:
            return "no stored row of this device yet: a factor of 2 either way"
        if self.rows < FEW_ROWS:
            return f"only {plural(self.rows, 'stored row')} of this device: a factor of 1.5 either way"
        return f"range from {self.rows} stored rows of this device"


def calibrate(
    results: Path, device: PoolDevice, data: DataConfig, train_images: int, trials: Sequence[Trial] = ()
) -> Calibration:
    """Compare the completed results on the same device in the studies of a results folder with their predictions.

    Configurations of `trials` without a result are compared by their isolated measurements, corrected by what
    training took longer than measured.

    Args:
        data, train_images: of the plan. Rows do not say how large their data set was. Those that trained on a whole
            data set which is not on this machine are left out.
        trials: of the plan.
    """
    studies = _list_studies(results)
    found = _compare_results(studies, device, data, train_images, {trial.trial_id for trial in trials})
    representatives = {_step_of_trial(trial): trial for trial in trials}
    if all(step in found.steps for step in representatives):
        return found
    isolated = {}
    for measured in find_measured(studies, device, list(representatives.values()), newest=MOST_ROWS):
        trial = measured.trial
        predicted = device_seconds(
            device, trial.model, trial.fusion.schedule, trial.train, images=train_images, threads=trial.cpus_per_trial
        )
        isolated[_step_of_trial(trial)] = StoredStep(measured.device_seconds / predicted, measured.peak_mib)
    return _with_isolated(found, isolated) if isolated else found


def _with_isolated(found: Calibration, isolated: Mapping[Hashable, StoredStep]) -> Calibration:
    both = [found.steps[step].ratio / stored.ratio for step, stored in isolated.items() if step in found.steps]
    slower = float(np.median(both)) if both else 1.0  # trials that share a machine slow each other
    steps = {step: StoredStep(slower * stored.ratio, stored.peak_mib) for step, stored in isolated.items()}
    if not found.rows:
        middle = float(np.median([stored.ratio for stored in isolated.values()]))
        found = Calibration(factor=middle, low=middle / 1.5, high=middle * 1.5, measured=len(isolated))
    return replace(found, steps=steps | dict(found.steps))


def _compare_results(
    studies: Sequence[Path], device: PoolDevice, data: DataConfig, train_images: int, planned: Collection[str]
) -> Calibration:
    """Compare results with predictions. `planned`: trials that have the plan's images, by trial_id."""
    frames = [rows for folder in studies if len(rows := _read_device_rows(folder, device))]
    if not frames:
        return Calibration()
    rows = pd.concat(frames).sort_values("finished_at").tail(MOST_ROWS)
    sizes = {"imagefolder": 0}  # training images of each whole data set; an image folder may be any folder
    if data.train_images is None:
        sizes = {data.dataset: train_images} | sizes
    own: dict[Hashable, list[float]] = {}
    peaks: dict[Hashable, float] = {}
    for row in rows.to_dict("records"):
        if row["trial_id"] in planned:
            row["train_images"] = train_images
        if ratio := _time_ratio(row, device, sizes):
            own.setdefault(step := _step_of_row(row), []).append(ratio)
            peaks[step] = row["peak_memory_mib"]
    ratios = [ratio for each in own.values() for ratio in each]
    if not ratios:
        return Calibration()
    low, middle, high = (float(q) for q in np.quantile(ratios, (0.1, 0.5, 0.9)))
    if len(ratios) < FEW_ROWS:
        low, high = middle / 1.5, middle * 1.5
    steps = {
        step: StoredStep(float(np.median(each)), None if pd.isna(peaks[step]) else float(peaks[step]))
        for step, each in own.items()
    }
    return Calibration(factor=middle, low=low, high=high, rows=len(ratios), steps=steps)


def _step_of_row(row: Mapping[Hashable, Any]) -> Hashable:
    fusion = (row["order"], row["weighting"]) if any(row["schedule"]) else None
    model = (row["backbone"], int(row["image_size"]), int(row["patch_size"]), row["cls_position"])
    train = (int(row["batch_size"]), row["precision"], not pd.isna(row["top1_ema_pct"]), _recomputes(row))
    return (model, tuple(row["schedule"]), fusion, row["dataset"], train)


def _recomputes(row: Mapping[Hashable, Any]) -> bool:
    """True if the row says so; rows of earlier versions do not say."""
    return not pd.isna(row["recompute"]) and bool(row["recompute"])


def _step_of_trial(trial: Trial) -> Hashable:
    fusion = (trial.fusion.order, trial.fusion.weighting) if any(trial.fusion.schedule) else None
    model = (trial.model.backbone, trial.model.image_size, trial.model.patch, trial.model.cls_position)
    train = (trial.train.batch_size, trial.train.precision, trial.train.ema, trial.train.recompute)
    return (model, trial.fusion.schedule, fusion, trial.data.dataset, train)


def _list_studies(results: Path) -> list[Path]:
    try:
        folders = [results / name for name in sorted(list_names(results))]
    except OSError:
        return []
    return [folder for folder in folders if os.path.isfile(StudyPaths(folder).plan)]  # False for another user's study


def _read_device_rows(folder: Path, device: PoolDevice) -> pd.DataFrame:
    try:
        rows, _ = read_rows(folder, columns=COLUMNS, newest=MOST_ROWS)
    except (UserError, OSError):  # another study's damage must not stop this one
        return pd.DataFrame()
    own = (rows["status"] == "completed") & rows["source"].isna() & (rows["train_time_s"] > 0)
    return rows[own & rows["device_name"].fillna("").map(device.is_named).astype(bool)]


def _time_ratio(row: Mapping[Hashable, Any], device: PoolDevice, sizes: dict[str, int]) -> float | None:
    """Return measured over predicted device time; None if it is not known on how many images the row's trial trained.

    Data sets that are not in `sizes` yet are looked up and added.
    """
    from famba_core.data.datasets import size_dataset  # imports torch, which takes seconds

    dataset, threads = row["dataset"], int(row["cpus_per_trial"])
    if dataset not in sizes:
        try:
            sizes[dataset] = size_dataset(DataConfig(dataset=dataset)).train_images
        except ConfigError:  # it is not on this machine
            sizes[dataset] = 0
    images = sizes[dataset] if pd.isna(row["train_images"]) else int(row["train_images"])
    if not images:
        return None
    try:
        model = ModelConfig(
            backbone=row["backbone"],
            image_size=int(row["image_size"]),
            patch_size=int(row["patch_size"]),
            cls_position=row["cls_position"],
        )
        train = TrainConfig(
            epochs=int(row["epochs"]),
            batch_size=int(row["batch_size"]),
            precision=row["precision"],
            ema=not pd.isna(row["top1_ema_pct"]),
            recompute=_recomputes(row),
        )
        predicted = device_seconds(device, model, row["schedule"], train, images=images, threads=threads)
    except (ConfigError, KeyError, ValueError):  # a newer version's row, with a model that this one does not know
        return None
    occupied = 1 / trials_per_gpu(row["gpus_per_trial"]) if device.gpu else threads
    return float(row["train_time_s"] * occupied / predicted)
