"""Decides how many trials share a GPU: as many as fit in its memory."""

from __future__ import annotations

import math
from dataclasses import replace

from sweep.executors.base import TrainJob
from sweep.plan.model import Plan
from sweep.price.memory import trials_in_memory

RAY_SHARES = 10_000  # Ray's smallest share of a resource is 1 / 10,000


def shares_devices(plan: Plan) -> bool:
    """True if trials may share a device; then no step can be measured while trials train."""
    return plan.pool.gpus_per_trial == "pack" or any(trial.gpus_per_trial < 1 for trial in plan.trials)


def pack(job: TrainJob, peak_mib: float, gpu_memory_mib: float, margin: float) -> TrainJob:
    """Return the job with the share of a GPU at which as many such jobs run as fit; a whole GPU if only one fits.

    Args:
        peak_mib: peak of the trial's tensors in a training step.
        margin: share of the memory that stays free.
    """
    sharing = trials_in_memory(peak_mib, gpu_memory_mib, margin)
    # rounded down, because `sharing` shares that were rounded up would be more than a GPU
    share = math.floor(RAY_SHARES / sharing) / RAY_SHARES
    return replace(job, resources=replace(job.resources, gpus=share))
