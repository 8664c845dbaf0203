"""Builds the rows to store from a job and what it measured."""

from __future__ import annotations

import datetime as dt
import functools
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from famba_core.fusion.schedule import tokens_per_layer
from famba_core.training.metrics import EpochMetrics, TrainResult
from sweep.executors.base import TrainJob
from sweep.files.code import PACKAGES, code_hash
from sweep.plan.model import Trial
from sweep.schema import EpochRow, ResultRow

_TRAIN_COLUMNS = ("lr", "weight_decay", "warmup_epochs", "label_smoothing", "ema", "recompute")
# The columns that a row takes from the isolated measurement of its training step.
_ISOLATED = ("step_time_ms", "throughput_img_per_s", "peak_memory_mib", "peak_memory_source")


def failed_row(job: TrainJob, error: str) -> ResultRow:
    """Return the row of an attempt whose worker could not write one."""
    finished_at = dt.datetime.now(dt.UTC)
    return ResultRow(**planned_columns(job), status="failed", error=error, **code_columns(), finished_at=finished_at)


def planned_columns(job: TrainJob) -> dict[str, Any]:
    """Return the columns of a ResultRow that are known before the job runs."""
    return {
        **vars(job.labels),
        **trial_columns(job.trial),
        "trial_id": job.job_id,
        "attempt": job.attempt,
        "suggestion": job.suggestion,
        "cpus_per_trial": job.resources.cpus,
        "gpus_per_trial": job.resources.gpus,
    }


def trial_columns(trial: Trial) -> dict[str, Any]:
    """Return the columns that a trial defines, whatever its labels and attempt."""
    model, fusion, train = trial.model, trial.fusion, trial.train
    return {
        "study": trial.study,
        "profile": trial.profile,
        "backbone": model.backbone,
        "image_size": model.image_size,
        "patch_size": model.patch,
        "cls_position": model.cls_position,
        **vars(fusion),
        "reduced_tokens": sum(fusion.schedule),
        "tokens_per_image": sum(tokens_per_layer(fusion.schedule, model.num_tokens)),
        "dataset": trial.data.dataset,
        "train_images": trial.data.train_images,
        "epochs": train.epochs,
        "batch_size": train.batch_size,
        "precision": train.precision,
        "seed": train.seed,
        **{name: getattr(train, name) for name in _TRAIN_COLUMNS},
        "mixup": trial.augment.mixup,
        "cutmix": trial.augment.cutmix,
        "data_fingerprint": trial.data_fingerprint,
        "config": _config(trial),
        "cpus_per_trial": trial.cpus_per_trial,
        "gpus_per_trial": trial.gpus_per_trial,
    }


def _config(trial: Trial) -> str:
    """Return everything that defines the trial, as JSON: not its names, nor where a machine keeps its images."""
    settings = {name: value for name, value in asdict(trial).items() if name not in ("trial_id", "study", "profile")}
    settings["data"].pop("data_dir")
    return json.dumps(settings)


def columns_of_epochs(history: Sequence[EpochMetrics]) -> dict[str, Any]:
    """Return the columns that the epochs so far give: the last, and the best by top-1."""
    if not history:
        return {}
    last, best = history[-1], max(history, key=lambda metrics: metrics.top1_pct)
    return {
        "top1_pct": last.top1_pct,
        "top5_pct": last.top5_pct,
        "top1_ema_pct": last.top1_ema_pct,
        "top5_ema_pct": last.top5_ema_pct,
        "final_loss": last.loss,
        "top1_best_pct": best.top1_pct,
        "best_epoch": best.epoch,
        "last_epoch": last.epoch,
    }


def columns_of_result(result: TrainResult, epochs: int, isolated: Mapping[Any, Any] | None) -> dict[str, Any]:
    """Return the columns of a completed training; time and memory by the isolated measurement of such a device."""
    columns = asdict(result) | {"measured": "in_training"}
    if isolated is None or isolated["device_name"] != result.device_name:
        return columns
    steps = epochs * isolated["steps_per_epoch"]
    return columns | {
        "measured": "isolated",
        "isolated_train_time_s": steps * isolated["step_time_ms"] / 1e3,
        **{name: isolated[name] for name in _ISOLATED},
    }


def epoch_row(job: TrainJob, metrics: EpochMetrics) -> EpochRow:
    """Return the row of the learning curve for one epoch."""
    columns = asdict(metrics)
    columns.pop("epochs")
    return EpochRow(study=job.trial.study, trial_id=job.job_id, attempt=job.attempt, **columns)


def code_columns() -> dict[str, Any]:
    """Return what a row says about the code that runs here. It is read once, so ask before the code may change."""
    return {"git_commit": _git_commit(), "code_hash": code_hash()}


@functools.cache
def _git_commit() -> str | None:
    """Return the commit of the running source, or None if it does not run from a checkout."""
    checkout = PACKAGES[1].resolve().parent
    if not (checkout / ".git").exists():  # a wheel inside someone else's repository is not that repository's code
        return None
    try:
        git = subprocess.run(
            ["git", "-C", checkout, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return git.stdout.strip()
