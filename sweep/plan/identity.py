"""Ids of trials and measurements, and groups of trials that early stopping compares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from famba_core import semantics
from famba_core.config import TrainConfig

if TYPE_CHECKING:
    from sweep.plan.model import Trial

# Of TrainConfig, what changes the numbers in a training step and neither its time nor its memory.
_NOT_IN_STEP_COST = frozenset(
    ("epochs", "lr", "min_lr", "warmup_epochs", "warmup_lr", "weight_decay", "label_smoothing", "ema_decay", "seed")
)
# Fields of later versions, left out of an id at these values: what was stored without them is still found.
_ADDED = {"recompute": False, "test_images": None}


def trial_id(trial: Trial) -> str:
    """Return an id made only of what defines the trial's result.

    The case's labels stay out even of the readable part: in a grid with other cases, another case may be the
    first with this trial, and the stored result must still be found.
    """
    digest = _digest(trial, _workload(trial), _train(trial))
    return f"{_readable(trial)}-seed{trial.train.seed}-{digest}"


def measure_id(trial: Trial) -> str:
    """Return an id of what determines time and memory of the trial's training step, without the device's model.

    Trials that differ only in seed, length, learning rate and the like share it, and so one measurement.
    """
    train = {name: value for name, value in _train(trial).items() if name not in _NOT_IN_STEP_COST}
    return f"{_readable(trial)}-{_digest(trial, _workload(trial), train)}"


def rung_group(trial: Trial) -> str:
    """Return an id shared by the trials that differ only in fusion, seed and device.

    Their accuracies after the same number of epochs can be compared.
    """
    workload = {name: value for name, value in _workload(trial).items() if name not in ("schedule", "fusion", "device")}
    train = {name: value for name, value in _train(trial).items() if name != "seed"}
    return f"{trial.model.backbone}-{_digest(trial, workload, train)}"


def _workload(trial: Trial) -> dict[str, Any]:
    """Return what runs and on which device, without the training settings."""
    data = {name: value for name, value in _without_added(vars(trial.data)).items() if name != "data_dir"}
    return {
        "model": vars(trial.model) | {"patch_size": trial.model.patch},
        "schedule": trial.fusion.schedule,
        "fusion": [trial.fusion.order, trial.fusion.weighting] if _fusing_layers(trial) else None,
        "data": data,
        "augment": vars(trial.augment),
        "device": "cuda" if trial.gpus_per_trial else f"cpu with {trial.cpus_per_trial} threads",
    }


def _train(trial: Trial) -> dict[str, Any]:
    """Return the training settings that enter an id; a setting without effect has its default value."""
    settings = vars(trial.train) | ({} if trial.train.ema else {"ema_decay": TrainConfig.ema_decay})
    return _without_added(settings)


def _without_added(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without those that later versions added, where these have no effect."""
    return {name: value for name, value in settings.items() if value != _ADDED.get(name, ...)}


def _readable(trial: Trial) -> str:
    fusing = _fusing_layers(trial)
    fused = f"{fusing[0]}to{fusing[-1]}-{sum(trial.fusion.schedule)}tokens" if fusing else "none"
    return f"{trial.model.backbone}-{fused}"


def _fusing_layers(trial: Trial) -> list[int]:
    return [layer for layer, r in enumerate(trial.fusion.schedule, start=1) if r]


def _digest(trial: Trial, workload: dict[str, Any], train: dict[str, Any]) -> str:
    """Return the hash of a workload, its training settings, its images, and the version of what they mean."""
    defining = workload | {"train": train}
    if trial.data_fingerprint:  # a data set that a library ships has none
        defining["fingerprint"] = trial.data_fingerprint
    if semantics.VERSION > 1:
        defining["semantics"] = semantics.VERSION
    return hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()[:10]
