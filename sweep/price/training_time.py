"""Predicts how long a trial trains on a device, by the cost model alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

from famba_core.config import ModelConfig, Precision, TrainConfig
from famba_core.cost.data_sheets import cpu_limits, known_limits
from famba_core.cost.roofline import Limits
from famba_core.cost.work import StepSettings, step_cost
from famba_core.paper.published import read_published_table
from sweep.price.device import PoolDevice

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
    steps = train.epochs * (images // batch)
    step = step_cost(model, schedule, replace(StepSettings.of(train), batch=batch))
    if device.gpu:
        return steps * step.time_s(_gpu_limits(device.name, precision)) * _slowdown_against_sheet()
    return steps * step.time_s(cpu_limits(threads, precision)) * threads


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
