"""Estimates what a plan costs: FLOPs and memory relative to no fusion, time on a device, and how sure that is."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import pandas as pd

from famba_core.cost.work import TRAINING, cost
from famba_core.fusion.schedule import tokens_per_layer
from sweep.plan.model import Plan, Trial
from sweep.price.device import PoolDevice
from sweep.price.training_time import Calibration, device_seconds

NAMED_CASES = 4  # of one trial; in a space on small images dozens may share it
WORKER_START_S = 5.0  # imports, data and the model, before the training that is priced


@dataclass(frozen=True, kw_only=True)
class TrialPrice:
    """The price of one trial; ratios are to the same model without fusion."""

    tokens_per_image: int  # seen by the mixers, summed over the layers
    flops_per_image: float  # forward
    flops_ratio: float
    memory_ratio: float  # of activations kept for backward
    device_hours: float  # of training
    hours: float  # from start to end with its share of the device, with evaluation and the worker's start


class HoursRange(NamedTuple):
    """Expected hours, and the likely range."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Price:
    """The price of a plan. A device is one GPU, or one CPU thread."""

    device: PoolDevice
    calibration: Calibration
    trials: Mapping[str, TrialPrice]  # by trial_id

    @property
    def unit(self) -> str:
        """Device the hours refer to: an A100 if nothing is known of the plan's GPU."""
        if not self.device.gpu:
            return "CPU thread"
        known = self.device.has_data_sheet or self.calibration.rows
        return self.device.name if self.device.name and known else "A100"

    def of(self, trials: Sequence[Trial]) -> list[TrialPrice]:
        """Return the prices of some of the plan's trials."""
        return [self.trials[trial.trial_id] for trial in trials]


def price_plan(plan: Plan, device: PoolDevice, calibration: Calibration) -> Price:
    """Estimate the price of every trial by the cost model, corrected by stored training times."""
    from famba_core.data.datasets import size_dataset  # imports torch, which takes seconds

    info = size_dataset(plan.trials[0].data)  # all trials of a plan have the same data
    priced = {
        trial.trial_id: _price_trial(trial, info.train_images, info.test_images, device, calibration.factor)
        for trial in plan.trials
    }
    return Price(device=device, calibration=calibration, trials=priced)


def _price_trial(trial: Trial, train_images: int, test_images: int, device: PoolDevice, factor: float) -> TrialPrice:
    schedule, train = trial.fusion.schedule, trial.train
    fused, unfused = cost(trial.model, schedule), cost(trial.model, [0] * len(schedule))
    seconds = factor * device_seconds(
        device, trial.model, schedule, train, images=train_images, threads=trial.cpus_per_trial
    )
    evaluations = 2 if train.ema else 1  # in each epoch: the averaged weights are evaluated too
    evaluating = evaluations * test_images / (TRAINING * train_images)
    share = trial.gpus_per_trial or trial.cpus_per_trial
    return TrialPrice(
        tokens_per_image=sum(tokens_per_layer(schedule, trial.model.num_tokens)),
        flops_per_image=fused.flops_per_image,
        flops_ratio=fused.flops_per_image / unfused.flops_per_image,
        memory_ratio=fused.activation_bytes_per_image / unfused.activation_bytes_per_image,
        device_hours=seconds / 3600,
        hours=(seconds * (1 + evaluating) / share + WORKER_START_S) / 3600,
    )


def trials_to_run(plan: Plan, limit: int | None) -> tuple[Sequence[Trial], int]:
    """Return the trials that a run in an empty folder trains for certain, and how many more its search chooses."""
    if plan.search is None:
        return plan.trials[:limit], 0
    count = len(plan.candidates)
    return plan.baselines, min(plan.search.trials, count, limit or count)


def device_hours(plan: Plan, price: Price, limit: int | None) -> HoursRange:
    """Estimate the training hours of a run with this limit.

    A trial that a search chooses is expected to cost the candidates' mean; it costs between the cheapest and the
    dearest of them.
    """
    certain, chosen = trials_to_run(plan, limit)
    fixed = sum(trial.device_hours for trial in price.of(certain))
    each = [trial.device_hours for trial in price.of(plan.candidates)] or [0.0]
    factor, low, high, _ = price.calibration
    return HoursRange(
        low=low / factor * (fixed + chosen * min(each)),
        expected=fixed + chosen * fmean(each),
        high=high / factor * (fixed + chosen * max(each)),
    )


def wall_hours(plan: Plan, price: Price, limit: int | None, *, concurrent: int) -> float:
    """Estimate the hours until the last trial of a run with this limit has ended."""
    certain, chosen = trials_to_run(plan, limit)
    each = [trial.hours for trial in price.of(plan.candidates)] or [0.0]
    return makespan([], [trial.hours for trial in price.of(certain)] + [fmean(each)] * chosen, concurrent)


def makespan(running: Sequence[float], waiting: Sequence[float], capacity: int) -> float:
    """Return the time until all trials have ended. Waiting ones start in order, each when one of the slots is free.

    Args:
        running: time left of each running trial.
        waiting: duration of each trial that has not started.
        capacity: number of slots.
    """
    ends = [*running, *[0.0] * (capacity - len(running))]
    heapq.heapify(ends)
    for duration in waiting:
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)


def plan_table(plan: Plan, price: Price) -> pd.DataFrame:
    """Return a row for each trial, in the plan's order. `cases` names the first few cases that share the trial."""
    labels: dict[str, list[str]] = {}
    for case in plan.cases:
        labels.setdefault(case.trial_id, []).append(case.label)
    return pd.DataFrame(
        {
            "trial": trial.trial_id,
            "cases": _join_labels(labels[trial.trial_id]),
            "schedule": compact_schedule(trial.fusion.schedule),
            "reduced_tokens": sum(trial.fusion.schedule),
            "tokens_per_image": priced.tokens_per_image,
            "flops_ratio": priced.flops_ratio,
            "memory_ratio": priced.memory_ratio,
            "device_hours": priced.device_hours,
        }
        for trial, priced in zip(plan.trials, price.of(plan.trials), strict=True)
    )


def _join_labels(labels: Sequence[str]) -> str:
    more = len(labels) - NAMED_CASES
    return "; ".join(labels if more <= 0 else [*labels[:NAMED_CASES], f"and {more} more"])


def compact_schedule(schedule: Sequence[int]) -> str:
    """Return a schedule in short: "6..24: 9 each", "2,4..24: 14 each", "6..24: 2 3 3 2 ...", or "-" without fusion."""
    layers = [layer for layer, r in enumerate(schedule, start=1) if r]
    if not layers:
        return "-"
    removed = [schedule[layer - 1] for layer in layers]
    steps = {b - a for a, b in itertools.pairwise(layers)}
    if steps == {1}:
        place = f"{layers[0]}..{layers[-1]}"
    elif len(steps) == 1:
        place = f"{layers[0]},{layers[1]}..{layers[-1]}"
    else:
        place = ",".join(map(str, layers))
    amount = f"{removed[0]} each" if len(set(removed)) == 1 else " ".join(map(str, removed))
    return f"{place}: {amount}"
