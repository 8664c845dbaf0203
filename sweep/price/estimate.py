"""Estimates what a plan costs: FLOPs and memory relative to no fusion, time on a device, and how sure that is."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from famba_core.cost.work import TRAINING, cost
from famba_core.fusion.schedule import tokens_per_layer
from sweep.grid.resources import Pool
from sweep.plan.model import Plan, Trial
from sweep.price.device import PoolDevice, trials_per_gpu
from sweep.price.memory import predicted_peak_mib, trials_in_memory
from sweep.price.training_time import Calibration, device_seconds, measuring_s, steps_per_epoch

PEAK_STEPS = 2  # of a trial on a CPU, which counts its memory in the second step of a throwaway model
WORKER_START_S = 5.0  # imports, data and the model, before the training that is priced


@dataclass(frozen=True, kw_only=True)
class TrialPrice:
    """The price of one trial; ratios are to the same model without fusion."""

    tokens_per_image: int  # seen by the mixers, summed over the layers
    flops_per_image: float  # forward
    flops_ratio: float
    memory_gib: float  # peak of the tensors in a training step
    sharing: int  # trials that share its device; 1 on a CPU
    occupied: float  # GPUs, or CPU threads, that it keeps from others
    train_hours: float  # of one device, training alone
    hours: float  # from start to end with its share of the device, with evaluation and the worker's start
    # before any trial starts, shared by those with one measure_id; 0 for trials on a whole GPU, and for stored steps
    measuring_hours: float

    @property
    def device_hours(self) -> float:
        """Return the GPU-hours or CPU thread-hours from start to end."""
        return self.hours * self.occupied


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
        known = self.device.has_data_sheet or self.calibration.rows or self.calibration.measured
        return self.device.name if self.device.name and known else "A100"

    def of(self, trials: Sequence[Trial]) -> list[TrialPrice]:
        """Return the prices of some of the plan's trials."""
        return [self.trials[trial.trial_id] for trial in trials]


def price_plan(plan: Plan, device: PoolDevice, calibration: Calibration) -> Price:
    """Estimate the price of every trial by the cost model, corrected by stored training times."""
    from famba_core.data.datasets import size_dataset  # imports torch, which takes seconds

    info = size_dataset(plan.trials[0].data)  # all trials of a plan have the same data
    priced = {
        trial.trial_id: _price_trial(plan.pool, trial, info.train_images, info.test_images, device, calibration)
        for trial in plan.trials
    }
    return Price(device=device, calibration=calibration, trials=priced)


def _price_trial(
    pool: Pool, trial: Trial, train_images: int, test_images: int, device: PoolDevice, calibration: Calibration
) -> TrialPrice:
    schedule, train = trial.fusion.schedule, trial.train
    fused, unfused = cost(trial.model, schedule), cost(trial.model, [0] * len(schedule))
    stored = calibration.find(trial)
    seconds = (stored.ratio if stored else calibration.factor) * device_seconds(
        device, trial.model, schedule, train, images=train_images, threads=trial.cpus_per_trial
    )
    evaluations = 2 if train.ema else 1  # in each epoch: the averaged weights are evaluated too
    evaluating = evaluations * test_images / (TRAINING * train_images)
    peak_mib = stored.peak_mib if stored and stored.peak_mib else predicted_peak_mib(trial)
    sharing = trials_per_gpu(trial.gpus_per_trial)
    if pool.gpus_per_trial == "pack" and device.memory_gib:
        sharing = trials_in_memory(peak_mib, 1024 * device.memory_gib, pool.memory_margin)
    occupied = 1 / sharing if trial.gpus_per_trial else trial.cpus_per_trial
    step_s = seconds / occupied / (train.epochs * steps_per_epoch(train, train_images))
    peak_steps = 0 if trial.gpus_per_trial else PEAK_STEPS
    measures = not stored and (sharing > 1 or not trial.gpus_per_trial)
    return TrialPrice(
        tokens_per_image=sum(tokens_per_layer(schedule, trial.model.num_tokens)),
        flops_per_image=fused.flops_per_image,
        flops_ratio=fused.flops_per_image / unfused.flops_per_image,
        memory_gib=peak_mib / 1024,
        sharing=sharing,
        occupied=occupied,
        train_hours=seconds / 3600,
        hours=(seconds * (1 + evaluating) / occupied + peak_steps * step_s + WORKER_START_S) / 3600,
        measuring_hours=measuring_s(step_s, gpu=device.gpu) / 3600 if measures else 0.0,
    )


def trials_to_run(plan: Plan, limit: int | None) -> tuple[Sequence[Trial], int]:
    """Return the trials that a run in an empty folder trains for certain, and how many more its search chooses."""
    if plan.search is None:
        return plan.trials[:limit], 0
    count = len(plan.candidates)
    return plan.baselines, min(plan.search.trials, count, limit or count)


def device_hours(plan: Plan, price: Price, missing: Sequence[Trial]) -> HoursRange:
    """Estimate the GPU-hours or CPU thread-hours of a run of the missing trials, evaluation included.

    A trial that a search chooses is expected to cost the candidates' mean; it costs between the cheapest and the
    dearest of them.
    """
    candidates = {trial.trial_id for trial in plan.candidates}
    certain = [trial for trial in missing if trial.trial_id not in candidates]
    chosen = len(missing) - len(certain)
    fixed = sum(trial.device_hours for trial in price.of(certain))
    each = [trial.device_hours for trial in price.of(plan.candidates)] or [0.0]
    factor, low, high = price.calibration.factor, price.calibration.low, price.calibration.high
    return HoursRange(
        low=low / factor * (fixed + chosen * min(each)),
        expected=fixed + chosen * fmean(each),
        high=high / factor * (fixed + chosen * max(each)),
    )


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
