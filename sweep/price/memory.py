"""Predicts the peak memory of a trial's training step where no measurement is stored, and decides which trials fit.

The others are refused before anything runs, or left out of a search.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from famba_core.config import DataConfig
from famba_core.cost.work import StepCost, StepSettings, step_cost
from famba_core.errors import Problem
from sweep.errors import UserError
from sweep.plan.model import Plan, Trial
from sweep.price.device import PoolDevice, trials_per_gpu

if TYPE_CHECKING:
    from famba_core.data.image_dataset import DatasetInfo

# A process on a GPU holds more than its tensors at their peak: the CUDA context with the kernels' code, about half a
# GiB, and as much again of blocks that the allocator has reserved and that are free or partly filled. An estimate.
CONTEXT_MIB = 1024
MOST_PER_GPU = 8  # with more, small trials only wait for each other and for the CPU


def predicted_peak_mib(trial: Trial) -> float:
    """Return the predicted peak of the tensors in a training step, with the images, which live on the device too."""
    return (predicted_step(trial).peak_bytes + _image_bytes(trial.data, trial.model.image_size)) / 2**20


def predicted_step(trial: Trial) -> StepCost:
    """Return the cost of the trial's training step by the cost model."""
    batch = min(trial.train.batch_size, _describe(trial.data).train_images)
    return step_cost(trial.model, trial.fusion.schedule, replace(StepSettings.of(trial.train), batch=batch))


@functools.cache
def _describe(data: DataConfig) -> DatasetInfo:
    from famba_core.data.datasets import size_dataset  # imports torch, which takes seconds

    return size_dataset(data)


@functools.cache
def _image_bytes(data: DataConfig, image_size: int) -> float:
    """Return the bytes of both splits: one for each colour of a pixel."""
    from famba_core.data import cifar100, imagefolder  # imports torch, which takes seconds

    of_folder = data.dataset == "imagefolder"
    side = round(image_size * imagefolder.MARGIN) if of_folder else cifar100.IMAGE_SIZE  # digits are smaller still
    info = _describe(data)
    return (info.train_images + info.test_images) * 3 * side**2


def trials_in_memory(peak_mib: float, gpu_memory_mib: float, margin: float) -> int:
    """Return how many trials are packed on a GPU.

    Args:
        peak_mib: peak of a trial's tensors in a training step.
        margin: share of the memory that stays free.
    """
    return min(max(int(gpu_memory_mib * (1 - margin) / (peak_mib + CONTEXT_MIB)), 1), MOST_PER_GPU)


def keep_fitting(plan: Plan, device: PoolDevice, stored: Collection[str] = ()) -> Plan:
    """Return the plan without those candidates of its search that the device's memory cannot hold.

    Args:
        stored: trials that have a row, by trial_id: they stay, because some device has already run them.

    Raises UserError for every other trial that does not fit, and if no candidate is left to search.
    """
    if device.memory_gib is None:
        return plan
    sharing = trials_per_gpu(plan.trials[0].gpus_per_trial)
    available_gib = device.memory_gib / sharing
    needed_gib = {
        trial.trial_id: (predicted_peak_mib(trial) + CONTEXT_MIB) / 1024
        for trial in plan.trials
        if trial.trial_id not in stored
    }
    too_large = {trial_id: gib for trial_id, gib in needed_gib.items() if gib > available_gib}
    baselines = {trial.trial_id for trial in plan.baselines}
    kept = {trial.trial_id for trial in plan.trials} - too_large.keys()
    can_leave_out = plan.search is not None and not kept <= baselines
    problems = [
        Problem(trial_id, "", _explain_size(plan, trial, too_large[trial_id], available_gib, sharing))
        for trial in plan.trials
        if (trial_id := trial.trial_id) in too_large and (trial_id in baselines or not can_leave_out)
    ]
    if problems:
        raise UserError(problems)
    return replace(
        plan,
        trials=tuple(trial for trial in plan.trials if trial.trial_id in kept),
        cases=tuple(case for case in plan.cases if case.trial_id in kept),
    )


def _explain_size(plan: Plan, trial: Trial, needed_gib: float, available_gib: float, sharing: int) -> str:
    layer = predicted_step(trial).fullest_layer
    where = f"in the backward pass of layer {layer}" if layer else "in the optimizer's step"
    memory = "GPU memory" if trial.gpus_per_trial else "memory"
    of_each = f" for each of {sharing} trials on a GPU (gpus_per_trial)" if sharing > 1 else ""
    return (
        f"{plan.first_cases[trial.trial_id].label} needs about {needed_gib:.1f} GiB, {where}, and there are "
        f"{available_gib:.1f} GiB of {memory}{of_each}; choose a smaller batch_size or recompute: true"
    )
