"""Defines the columns of a study's Parquet files, in this place only."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Literal

Status = Literal["completed", "failed", "pruned"]


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One attempt at one trial, written when it ends. A number that was not measured is None, never 0."""

    study: str
    trial_id: str
    attempt: int  # from 1
    status: Status  # "pruned": stopped early; only completed rows enter tables
    error: str | None = None  # reason of a failure
    # Planned: start_layer, stop_layer and r are the grid's labels (the paper's, with reference_patches); schedule is
    # what ran.
    backbone: str
    strategy: str
    start_layer: int | None = None
    stop_layer: int | None = None
    r: int | None = None
    order: str
    weighting: str
    schedule: tuple[int, ...]  # tokens removed in each layer
    reduced_tokens: int  # the sum of the schedule
    tokens_per_image: int  # input tokens of the mixers, summed over the layers
    dataset: str
    train_images: int | None = None  # size of the training subset; None for the whole set
    profile: str
    image_size: int  # pixels
    patch_size: int  # pixels
    cls_position: str
    epochs: int
    batch_size: int
    precision: str
    seed: int
    lr: float | None = None  # peak; this and the settings below are None in rows of earlier versions
    weight_decay: float | None = None
    warmup_epochs: int | None = None
    label_smoothing: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    ema: bool | None = None
    recompute: bool | None = None
    data_fingerprint: str | None = None  # of the images; None, too, for data sets that a library ships
    config: str | None = None  # JSON: every setting that defines the trial
    cpus_per_trial: int
    gpus_per_trial: float
    suggestion: int | None = None  # 1-based index among the search's suggestions, if it was one
    source: str | None = None  # "study/trial_id.attempt" of the result that this row was copied from, if it was
    # Measured:
    parameters: int | None = None
    # Source of step time, throughput and peak memory: a benchmark of the step alone on its device, or the training
    # itself, with other jobs running concurrently.
    measured: Literal["in_training", "isolated"] | None = None
    top1_pct: float | None = None  # last epoch, raw weights
    top5_pct: float | None = None
    top1_best_pct: float | None = None  # best epoch on the test set, raw weights: the paper's rule
    best_epoch: int | None = None
    last_epoch: int | None = None  # the last that ended
    top1_ema_pct: float | None = None  # last epoch, averaged weights
    top5_ema_pct: float | None = None
    final_loss: float | None = None  # mean training loss of the last epoch
    train_time_s: float | None = None  # training steps only, without evaluation and set-up
    isolated_train_time_s: float | None = None  # isolated step time times the number of steps
    wall_time_s: float | None = None  # of this attempt, everything included
    step_time_ms: float | None = None
    throughput_img_per_s: float | None = None
    peak_memory_mib: float | None = None  # on CUDA, includes the images that are kept on the device
    peak_memory_source: Literal["cuda_allocator", "cpu_tensor_bytes"] | None = None
    flops_per_image: float | None = None  # forward pass, 2 per multiply-add
    device_name: str | None = None
    torch_version: str | None = None
    git_commit: str | None = None
    code_hash: str | None = None  # of both packages' sources
    started_at: dt.datetime | None = None  # UTC
    finished_at: dt.datetime | None = None  # UTC


@dataclass(frozen=True, kw_only=True)
class MeasureRow:
    """One isolated measurement: a training step benchmarked alone on a device, for all trials that share it."""

    study: str
    profile: str
    measure_id: str
    # Planned, as in ResultRow:
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
    # Measured:
    timed_steps: int  # sample size of the median and the quartiles
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
    code_hash: str | None = None
    finished_at: dt.datetime  # UTC


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """One epoch of one attempt: the learning curve."""

    study: str
    trial_id: str
    attempt: int
    epoch: int  # from 1
    loss: float  # mean training loss
    lr: float  # learning rate at the end of the epoch
    top1_pct: float
    top5_pct: float
    top1_ema_pct: float | None = None
    top5_ema_pct: float | None = None
    train_time_s: float  # training steps of this epoch only
