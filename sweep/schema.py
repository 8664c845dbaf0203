"""The columns of a study's Parquet files: the only place where they are named."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Literal

from famba_core.arrow import arrow_schema as arrow_schema

Status = Literal["completed", "failed", "pruned"]


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One attempt at one trial, written at its end. A number that was not measured is None, never 0."""

    study: str
    trial_id: str
    attempt: int  # 1 for the first
    status: Status  # "pruned" was stopped early; only completed rows enter tables
    error: str | None = None  # why it failed
    # what was planned; start_layer, stop_layer and r are the paper's labels, schedule is what ran
    backbone: str
    strategy: str
    start_layer: int | None = None
    stop_layer: int | None = None
    r: int | None = None
    order: str
    weighting: str
    schedule: tuple[int, ...]  # tokens removed in each layer
    reduced_tokens: int  # sum of the schedule
    tokens_per_image: int  # tokens that the mixers see, summed over the layers
    dataset: str
    train_images: int | None = None  # size of the part trained on; None where it was the whole set
    profile: str
    image_size: int  # pixels
    patch_size: int  # pixels
    cls_position: str
    epochs: int
    batch_size: int
    precision: str
    seed: int
    cpus_per_trial: int
    gpus_per_trial: float
    suggestion: int | None = None  # of a search: its how many-th trial, from 1
    source: str | None = None  # "study/trial_id.attempt" of the result that this one was copied from, if it was
    # what was measured
    parameters: int | None = None
    # Where step time, throughput and peak memory come from: a measurement of the step alone on a device, or training
    # itself, with whatever ran beside it.
    measured: Literal["in_training", "isolated"] | None = None
    top1_pct: float | None = None  # last epoch, raw weights
    top5_pct: float | None = None
    top1_best_pct: float | None = None  # best epoch on the test set, raw weights: the paper's rule
    best_epoch: int | None = None
    last_epoch: int | None = None  # the last one that ended
    top1_ema_pct: float | None = None  # last epoch, averaged weights
    top5_ema_pct: float | None = None
    final_loss: float | None = None  # mean training loss of the last epoch
    train_time_s: float | None = None  # training steps only, as it was in training: no evaluation, no set-up
    isolated_train_time_s: float | None = None  # the isolated step time, times the number of steps
    wall_time_s: float | None = None  # this attempt, everything included
    step_time_ms: float | None = None
    throughput_img_per_s: float | None = None
    peak_memory_mib: float | None = None  # on CUDA the images that live on the device count too
    peak_memory_source: Literal["cuda_allocator", "cpu_tensor_bytes"] | None = None
    flops_per_image: float | None = None  # forward, 2 per multiply-add
    device_name: str | None = None
    torch_version: str | None = None
    git_commit: str | None = None
    started_at: dt.datetime | None = None  # UTC
    finished_at: dt.datetime | None = None  # UTC


@dataclass(frozen=True, kw_only=True)
class MeasureRow:
    """One isolated measurement: a training step alone on a device, for every trial that it stands for."""

    study: str
    profile: str
    measure_id: str
    # what ran, as in ResultRow
    backbone: str
    schedule: tuple[int, ...]
    order: str
    weighting: str
    dataset: str
    image_size: int
    patch_size: int
    batch_size: int
    precision: str
    cpus_per_trial: int
    gpus_per_trial: float
    # what was measured
    timed_steps: int  # n of the median and the quartiles
    step_time_ms: float  # median
    step_time_q25_ms: float
    step_time_q75_ms: float
    steps_per_epoch: int
    throughput_img_per_s: float
    peak_memory_mib: float
    peak_memory_source: Literal["cuda_allocator", "cpu_tensor_bytes"]
    device_name: str
    torch_version: str
    git_commit: str | None = None
    finished_at: dt.datetime  # UTC


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """One epoch of one attempt: the learning curve."""

    study: str
    trial_id: str
    attempt: int
    epoch: int  # from 1
    loss: float  # mean training loss
    lr: float  # at the epoch's end
    top1_pct: float
    top5_pct: float
    top1_ema_pct: float | None = None
    top5_ema_pct: float | None = None
    train_time_s: float  # this epoch's training steps
