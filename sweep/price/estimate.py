"""What a plan costs: FLOPs and memory relative to no fusion, time on a device, and how sure that is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from famba_core.cost.work import TRAINING, cost
from famba_core.fusion.schedule import tokens_per_layer
from sweep.plan.model import Plan, Trial
from sweep.price.calibration import Calibration
from sweep.price.device import PoolDevice
from sweep.price.makespan import makespan
from sweep.price.training_time import device_seconds

NAMED_CASES = 4  # of one trial; in a space on small images dozens may share it
WORKER_START_S = 5.0  # imports, data, the model; no part of the training that is priced


@dataclass(frozen=True, kw_only=True)
class TrialPrice:
    """The price of one trial; ratios are to the same model without fusion."""

    tokens_per_image: int  # seen by the mixers, summed over the layers
    flops_per_image: float  # forward
    flops_ratio: float
    memory_ratio: float  # of activations kept for backward
    device_hours: float  # of training
    hours: float  # from its start to its end with its share of the device, evaluation and the worker's start included


@dataclass(frozen=True, kw_only=True)
class Total:
    """Hours, and the band that they are likely to be in."""

    low: float
    about: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Price:
    """The price of a plan. A device is one GPU, or one thread of a CPU."""

    device: PoolDevice
    calibration: Calibration
    trials: Mapping[str, TrialPrice]  # by trial_id

    @property
    def device_hours(self) -> float:
        return sum(trial.device_hours for trial in self.trials.values())


def price(plan: Plan, device: PoolDevice, calibration: Calibration) -> Price:
    """An estimate from the cost model, corrected by what stored results took."""
    from famba_core.data.datasets import describe_dataset  # imports torch, which takes seconds

    info = describe_dataset(plan.trials[0].data)  # the data are the whole plan's
    priced = {
        trial.trial_id: _trial_price(trial, info.train_images, info.test_images, device, calibration.factor)
        for trial in plan.trials
    }
    return Price(device=device, calibration=calibration, trials=priced)


def _trial_price(trial: Trial, train_images: int, test_images: int, device: PoolDevice, factor: float) -> TrialPrice:
    schedule, train = trial.fusion.schedule, trial.train
    fused, unfused = cost(trial.model, schedule), cost(trial.model, [0] * len(schedule))
    seconds = factor * device_seconds(
        device,
        trial.model,
        schedule,
        batch=train.batch_size,
        precision=train.precision,
        ema=train.ema,
        recompute=train.recompute,
        images=train_images,
        epochs=train.epochs,
        threads=trial.cpus_per_trial,
    )
    evaluations = 2 if train.ema else 1  # each epoch, of the averaged weights too
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


def trials_to_run(plan: Plan, limit: int | None) -> tuple[list[Trial], int]:
    """Return the trials that a run in an empty folder trains for certain, and how many more its search chooses."""
    if plan.search is None:
        return list(plan.trials[:limit]), 0
    count = len(plan.candidates)
    return list(plan.baselines), min(plan.search.trials, count, limit or count)


def device_hours(plan: Plan, priced: Price, limit: int | None) -> Total:
    """Of what a run with this limit trains. A search's trials are each at the mean of its candidates, and its band
    reaches from the cheapest of them to the dearest."""
    certain, chosen = trials_to_run(plan, limit)
    fixed = sum(priced.trials[trial.trial_id].device_hours for trial in certain)
    each = [priced.trials[trial.trial_id].device_hours for trial in plan.candidates] or [0.0]
    factor, low, high, _ = priced.calibration
    return Total(
        low=low / factor * (fixed + chosen * min(each)),
        about=fixed + chosen * sum(each) / len(each),
        high=high / factor * (fixed + chosen * max(each)),
    )


def wall_hours(plan: Plan, priced: Price, limit: int | None, *, at_a_time: int) -> float:
    """Until the last of what a run with this limit trains has ended, so many running at a time."""
    certain, chosen = trials_to_run(plan, limit)
    hours = [priced.trials[trial.trial_id].hours for trial in certain]
    each = [priced.trials[trial.trial_id].hours for trial in plan.candidates]
    if each:
        hours += [sum(each) / len(each)] * chosen
    return makespan([], hours, at_a_time)


def plan_table(plan: Plan, price: Price) -> pd.DataFrame:
    """A row for each trial, in the plan's order; `cases` names those that share it, a few of many."""
    sharing: dict[str, list[str]] = {}
    for case in plan.cases:
        sharing.setdefault(case.trial_id, []).append(case.label)
    rows = []
    for trial in plan.trials:
        schedule, priced = trial.fusion.schedule, price.trials[trial.trial_id]
        rows.append(
            {
                "trial": trial.trial_id,
                "cases": _named(sharing[trial.trial_id]),
                "schedule": compact_schedule(schedule),
                "reduced_tokens": sum(schedule),
                "tokens_per_image": priced.tokens_per_image,
                "flops_ratio": priced.flops_ratio,
                "memory_ratio": priced.memory_ratio,
                "device_hours": priced.device_hours,
            }
        )
    return pd.DataFrame(rows)


def _named(labels: Sequence[str]) -> str:
    more = len(labels) - NAMED_CASES
    return "; ".join(labels if more <= 0 else [*labels[:NAMED_CASES], f"and {more} more"])


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
