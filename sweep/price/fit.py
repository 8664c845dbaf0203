"""Which trials of a plan fit in memory: the others are refused before anything runs, or left out of a search."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from famba_core.cost.work import step_cost
from sweep.errors import Problem, UserError
from sweep.plan.model import Plan, Trial
from sweep.price.device import PoolDevice
from sweep.price.memory import CONTEXT_MIB, predicted_peak_mib


def fitting(plan: Plan, device: PoolDevice, stored: Collection[str] = ()) -> Plan:
    """The plan, of a search without those candidates that the device's memory cannot hold.

    Args:
        stored: trials that have a row, by trial_id: they stay, because another device had the memory.

    Raises UserError for every other trial that does not fit, with the layer whose backward is fullest, and where
    nothing is left to search.
    """
    if device.memory_gib is None:
        return plan
    needed = {trial.trial_id: (predicted_peak_mib(trial) + CONTEXT_MIB) / 1024 for trial in plan.trials}
    gpus = plan.trials[0].gpus_per_trial
    sharing = int(1 / gpus + 1e-6) if gpus else 1
    room_gib = device.memory_gib / sharing
    to_run = [trial for trial in plan.trials if trial.trial_id not in stored]
    large = [trial for trial in to_run if needed[trial.trial_id] > room_gib]
    kept = {trial.trial_id for trial in plan.trials} - {trial.trial_id for trial in large}
    listed = {trial.trial_id for trial in plan.baselines}
    can_leave_out = plan.search is not None and kept > kept & listed
    labels = {case.trial_id: case.label for case in reversed(plan.cases)}
    problems = [
        Problem(
            trial.trial_id, "", _too_large(trial, labels[trial.trial_id], needed[trial.trial_id], room_gib, sharing)
        )
        for trial in large
        if trial.trial_id in listed or not can_leave_out
    ]
    if problems:
        raise UserError(problems)
    return replace(
        plan,
        trials=tuple(trial for trial in plan.trials if trial.trial_id in kept),
        cases=tuple(case for case in plan.cases if case.trial_id in kept),
    )


def _too_large(trial: Trial, label: str, needed_gib: float, room_gib: float, sharing: int) -> str:
    train = trial.train
    layer = step_cost(
        trial.model,
        trial.fusion.schedule,
        batch=train.batch_size,
        precision=train.precision,
        ema=train.ema,
        recompute=train.recompute,
    ).fullest_layer
    where = f"in the backward pass of layer {layer}" if layer else "in the optimizer's step"
    of_each = f" for each of {sharing} trials on a GPU (gpus_per_trial)" if sharing > 1 else ""
    return (
        f"{label} needs about {needed_gib:.1f} GiB, {where}, and there are {room_gib:.1f} GiB "
        f"of {'GPU ' if trial.gpus_per_trial else ''}memory{of_each}; choose a smaller batch_size or recompute: true"
    )
