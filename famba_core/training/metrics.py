"""What training measures. It imports no torch, because drivers of sweeps read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """Measurements of one epoch. Times in seconds, accuracies on the whole test set in percent."""

    epoch: int  # from 1
    epochs: int
    loss: float  # mean over the epoch's steps
    lr: float  # at the epoch's last step
    top1_pct: float
    top5_pct: float
    top1_ema_pct: float | None
    top5_ema_pct: float | None
    train_time_s: float  # training steps only


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Measurements of the whole run."""

    parameters: int
    flops_per_image: float  # forward, 2 per multiply-add
    train_time_s: float  # training steps of all epochs, without evaluation and set-up
    step_time_ms: float  # median over epochs of the mean step, without the first epoch if there are others
    throughput_img_per_s: float
    peak_memory_mib: float
    peak_memory_source: Literal["cuda_allocator", "cpu_tensor_bytes"]
    device_name: str
