"""How long a trial trains on a device by the cost model alone, before any result corrects it."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from famba_core.config import ModelConfig, Precision
from famba_core.cost.data_sheets import cpu_limits, known_limits
from famba_core.cost.roofline import Limits
from famba_core.cost.work import step_cost
from famba_core.paper.published import read_published_table
from sweep.price.device import PoolDevice

# Vim-Ti without token fusion on an A100: 300 epochs of 50,000 images in batches of 128 (Famba-V section 4).
_PAPER_MODEL, _PAPER_BATCH = ModelConfig(backbone="vim_tiny"), 128
_PAPER_STEPS = 300 * (50_000 // _PAPER_BATCH)


def device_seconds(
    device: PoolDevice,
    model: ModelConfig,
    schedule: Sequence[int],
    *,
    batch: int,
    precision: Precision,
    ema: bool,
    recompute: bool,
    images: int,
    epochs: int,
    threads: int,
) -> float:
    """Seconds of training on one GPU, or of one thread, for a trial that has `threads` of a CPU.

    A GPU whose data sheet is not known counts as an A100, and every GPU is as far below its sheet as the paper's was.
    """
    batch = min(batch, images)
    steps = epochs * (images // batch)
    step = step_cost(model, schedule, batch=batch, precision=precision, ema=ema, recompute=recompute)
    if device.gpu:
        return steps * step.time_s(_gpu_limits(device.name, precision)) * _beyond_the_sheet()
    return steps * step.time_s(cpu_limits(threads, precision)) * threads


@functools.cache
def _beyond_the_sheet() -> float:
    step = step_cost(_PAPER_MODEL, [0] * _PAPER_MODEL.sizes.depth, batch=_PAPER_BATCH)
    published = next(row for row in read_published_table(1) if (row.backbone, row.strategy) == ("vim_tiny", "none"))
    return published.train_time_s / (_PAPER_STEPS * step.time_s(_gpu_limits("A100", "float32")))


@functools.cache
def _gpu_limits(name: str | None, precision: Precision) -> Limits:
    limits = known_limits(name or "A100", precision) or known_limits("A100", precision)
    assert limits is not None
    return limits
