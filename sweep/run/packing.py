"""How many trials share a GPU: as many as fit in its memory."""

from __future__ import annotations

import math
from dataclasses import replace

from sweep.plan.model import Plan, Trial
from sweep.price.memory import CONTEXT_MIB

MOST_PER_GPU = 8  # beyond it, small trials only wait for each other, each with its own threads on the CPU
RAY_PARTS = 10_000  # of a resource; Ray knows no smaller ones


def shares_devices(plan: Plan) -> bool:
    """Whether trials may run beside each other on a device, so that none can be measured while others train."""
    return plan.pool.gpus_per_trial == "pack" or any(trial.gpus_per_trial < 1 for trial in plan.trials)


def packed(trial: Trial, peak_mib: float, gpu_memory_mib: float, margin: float) -> Trial:
    """The trial with the share of a GPU that lets as many like it run there as fit; one that does not fit gets it all.

    Args:
        peak_mib: of the trial's tensors in a training step.
        margin: share of the memory that stays free.
    """
    fitting = int(gpu_memory_mib * (1 - margin) / (peak_mib + CONTEXT_MIB))
    sharing = min(max(fitting, 1), MOST_PER_GPU)
    # Rounded down, because `sharing` times a share that was rounded up would be more than a GPU.
    return replace(trial, gpus_per_trial=math.floor(RAY_PARTS / sharing) / RAY_PARTS)
