"""What a plan costs: FLOPs and memory relative to no fusion, and the time on a device."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from famba_core.config import ModelConfig
from famba_core.cost import cost
from famba_core.fusion.schedule import tokens_per_layer
from sweep.plan import Plan, TrialPlan

Device = Literal["gpu", "cpu"]

_TRAINING = 3  # forward and backward over forward alone: backward multiplies twice for every product of forward

_PAPER_MODEL = ModelConfig(backbone="vim_tiny")
_PAPER_IMAGES = 50_000 * 300  # CIFAR-100's training set, 300 epochs
_PAPER_SECONDS = 16_382  # on an A100 (Famba-V Table 1: Vim-Ti without token fusion, 4:33:02)
_CPU_FLOPS_PER_S = 2e10  # of one thread with AVX-512, float32, in the narrow models of the small profiles


@dataclass(frozen=True, kw_only=True)
class TrialPrice:
    """The price of one trial; ratios are to the same model without fusion."""

    tokens_per_image: int  # seen by the mixers, summed over the layers
    flops_per_image: float  # forward
    flops_ratio: float
    memory_ratio: float  # of activations kept for backward
    device_hours: float


@dataclass(frozen=True, kw_only=True)
class Price:
    """The price of a plan. A device is one GPU, or one thread of a CPU."""

    device: Device
    trials: Mapping[str, TrialPrice]  # by trial_id

    @property
    def device_hours(self) -> float:
        return sum(trial.device_hours for trial in self.trials.values())


def price(plan: Plan, device: Device) -> Price:
    """An estimate from FLOPs and one measured rate of the device; narrow models on small images run below it."""
    from famba_core.data.datasets import describe_dataset  # imports torch, which takes seconds

    train_images = describe_dataset(plan.trials[0].data).train_images  # the data are the whole plan's
    return Price(device=device, trials={t.trial_id: _trial_price(t, train_images, device) for t in plan.trials})


def _trial_price(trial: TrialPlan, train_images: int, device: Device) -> TrialPrice:
    schedule = trial.fusion.schedule
    assert schedule is not None
    fused, unfused = cost(trial.model, schedule), cost(trial.model, [0] * len(schedule))
    training_flops = _TRAINING * fused.flops_per_image * train_images * trial.train.epochs
    return TrialPrice(
        tokens_per_image=sum(tokens_per_layer(schedule, trial.model.num_tokens)),
        flops_per_image=fused.flops_per_image,
        flops_ratio=fused.flops_per_image / unfused.flops_per_image,
        memory_ratio=fused.activation_bytes_per_image / unfused.activation_bytes_per_image,
        device_hours=training_flops / _flops_per_s(device) / 3600,
    )


@functools.cache
def _flops_per_s(device: Device) -> float:
    if device == "cpu":
        return _CPU_FLOPS_PER_S
    unfused = cost(_PAPER_MODEL, [0] * _PAPER_MODEL.sizes.depth)
    return _TRAINING * unfused.flops_per_image * _PAPER_IMAGES / _PAPER_SECONDS


def plan_table(plan: Plan, price: Price) -> pd.DataFrame:
    """A row for each trial, in the plan's order; `cases` names every case that shares it."""
    sharing: dict[str, list[str]] = {}
    for case in plan.cases:
        sharing.setdefault(case.trial_id, []).append(case.label)
    rows = []
    for trial in plan.trials:
        schedule, priced = trial.fusion.schedule, price.trials[trial.trial_id]
        assert schedule is not None
        rows.append(
            {
                "trial": trial.trial_id,
                "cases": "; ".join(sharing[trial.trial_id]),
                "schedule": compact_schedule(schedule),
                "reduced_tokens": sum(schedule),
                "tokens_per_image": priced.tokens_per_image,
                "flops_ratio": priced.flops_ratio,
                "memory_ratio": priced.memory_ratio,
                "device_hours": priced.device_hours,
            }
        )
    return pd.DataFrame(rows)


def compact_schedule(schedule: Sequence[int]) -> str:
    """A schedule in a few words: "6..24: 9 each", "2,4..24: 14 each", "6..24: 2 3 3 2 ...", or "-" without fusion."""
    layers = [layer for layer, r in enumerate(schedule, start=1) if r]
    if not layers:
        return "-"
    removed = [schedule[layer - 1] for layer in layers]
    steps = {b - a for a, b in itertools.pairwise(layers)}
    if len(layers) > 1 and len(steps) == 1:
        second = "" if steps == {1} else f",{layers[1]}"
        place = f"{layers[0]}{second}..{layers[-1]}"
    else:
        place = ",".join(str(layer) for layer in layers)
    amount = f"{removed[0]} each" if len(set(removed)) == 1 else " ".join(str(r) for r in removed)
    return f"{place}: {amount}"
