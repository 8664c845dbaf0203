"""Predicts the peak memory of a trial's training step, where no measurement is stored."""

from __future__ import annotations

import functools

from famba_core.config import DataConfig
from famba_core.cost.work import StepCost, StepSettings, step_cost
from sweep.plan.model import Trial

# A process on a GPU holds more than its tensors at their peak: the CUDA context with the kernels' code, about half a
# GiB, and as much again of blocks that the allocator has reserved and that are free or partly filled. An estimate.
CONTEXT_MIB = 1024


def predicted_peak_mib(trial: Trial) -> float:
    """Return the predicted peak of the tensors in a training step, with the images, which live on the device too."""
    return (predicted_step(trial).peak_bytes + _image_bytes(trial.data, trial.model.image_size)) / 2**20


def predicted_step(trial: Trial) -> StepCost:
    """Return the cost of the trial's training step by the cost model."""
    return step_cost(trial.model, trial.fusion.schedule, StepSettings.of(trial.train))


@functools.cache
def _image_bytes(data: DataConfig, image_size: int) -> float:
    """Return the bytes of both splits: one for each colour of a pixel."""
    from famba_core.data import cifar100, imagefolder  # imports torch, which takes seconds
    from famba_core.data.datasets import describe_dataset

    of_folder = data.dataset == "imagefolder"
    side = round(image_size * imagefolder.MARGIN) if of_folder else cifar100.IMAGE_SIZE  # digits are smaller still
    info = describe_dataset(data)
    return (info.train_images + info.test_images) * 3 * side**2
