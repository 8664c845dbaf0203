"""What training costs under a schedule, relative to no fusion: the measure of an iso-cost budget.

The reference is fixed, so that a grid means the same trials on every machine: a training step of vim_tiny on 224 x 224
pixels in batches of 128 and float32, as time at the limits of an A100's data sheet, one resource after the other. What
starting operators takes is left out: it depends on the machine. Profiles with smaller images remove the same share of
their tokens, as they do for every case; what that costs there is for `famba-sweep plan` to say.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from famba_core.config import ModelConfig
from famba_core.cost.data_sheets import known_limits
from famba_core.cost.roofline import least_times
from famba_core.cost.work import StepSettings, layer_work, step_cost
from famba_core.fusion.schedule import tokens_per_layer

_MODEL = ModelConfig(backbone="vim_tiny")
_BATCH = 128  # images


def train_cost_ratio(schedule: Sequence[int]) -> float:
    """The predicted cost of a training step under a schedule of 24 layers for 197 tokens, over that without fusion."""
    saved = sum(
        _layer_s(_MODEL.num_tokens, 0) - _layer_s(length, r)
        for length, r in zip(tokens_per_layer(schedule, _MODEL.num_tokens), schedule, strict=True)
    )
    return 1 - saved / _unfused_s()


@functools.cache
def _layer_s(length: int, r: int) -> float:
    """Seconds of one layer, kept because a search prices thousands of schedules made of a few hundred such layers."""
    limits = known_limits("A100", "float32")
    assert limits is not None
    return least_times(layer_work(_MODEL, length, r) * _BATCH, limits).serial


@functools.cache
def _unfused_s() -> float:
    limits = known_limits("A100", "float32")
    assert limits is not None
    return least_times(step_cost(_MODEL, [0] * _MODEL.sizes.depth, StepSettings(batch=_BATCH)).work, limits).serial
