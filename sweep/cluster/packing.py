"""How many trials share a GPU: as many as fit in its memory."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

from famba_core.config import DataConfig
from famba_core.cost import step_cost
from sweep.plan import Plan, TrialPlan

# A process on a GPU holds more than its tensors at their peak: the CUDA context with the kernels' code, about half a
# GiB, and as much again of blocks that the allocator has reserved and that are free or partly filled. An estimate.
CONTEXT_MIB = 1024
MOST_PER_GPU = 8  # beyond it, small trials only wait for each other, each with its own threads on the CPU
RAY_PARTS = 10_000  # of a resource; Ray knows no smaller ones


def shares_devices(plan: Plan) -> bool:
    """Whether trials may run beside each other on a device, so that none can be measured while others train."""
    return plan.pool.gpus_per_trial == "pack" or any(trial.gpus_per_trial < 1 for trial in plan.trials)


def packed(trial: TrialPlan, peak_mib: float, gpu_memory_mib: float, margin: float) -> TrialPlan:
    """The trial with the share of a GPU that lets as many like it run there as fit; one that does not fit gets it all.

    Args:
        peak_mib: of the trial's tensors in a training step.
        margin: share of the memory that stays free.
    """
    fitting = int(gpu_memory_mib * (1 - margin) / (peak_mib + CONTEXT_MIB))
    sharing = min(max(fitting, 1), MOST_PER_GPU)
    # Rounded down, because `sharing` times a share that was rounded up would be more than a GPU.
    return replace(trial, gpus_per_trial=math.floor(RAY_PARTS / sharing) / RAY_PARTS)


def predicted_peak_mib(trial: TrialPlan) -> float:
    """What the tensors of a training step take at their peak, where it has not been measured."""
    model, train = trial.model, trial.train
    assert trial.fusion.schedule is not None, "a planned trial knows its schedule"
    step = step_cost(
        model,
        trial.fusion.schedule,
        batch=train.batch_size,
        precision=train.precision,
        ema=train.ema,
        recompute=train.recompute,
    )
    return (step.peak_bytes + _image_bytes(trial.data, model.image_size)) / 2**20


@functools.cache
def _image_bytes(data: DataConfig, image_size: int) -> float:
    """Both splits, which live on the device: a byte for each colour of a pixel."""
    from famba_core.data import cifar100, imagefolder  # imports torch, which takes seconds
    from famba_core.data.datasets import describe_dataset

    of_folder = data.dataset == "imagefolder"
    side = round(image_size * imagefolder.MARGIN) if of_folder else cifar100.IMAGE_SIZE  # digits are smaller still
    info = describe_dataset(data)
    return (info.train_images + info.test_images) * 3 * side**2
