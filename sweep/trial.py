"""TrialPlan -> trained epochs and a stored row."""

from __future__ import annotations

import datetime as dt
import functools
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from famba_core.config import ConfigError, FusionConfig
from famba_core.fusion.schedule import tokens_per_layer
from sweep.identity import measure_id, rung_group
from sweep.plan import TrialPlan
from sweep.schema import EpochRow, ResultRow
from sweep.store import read_measurement, write_result
from sweep.store.driver_lock import token_of
from sweep.worker.early_stop import goes_on
from sweep.worker.failure import FOLDER_ERRORS, OutOfMemory, explain, is_out_of_memory
from sweep.worker.progress import TrialProgress, checkpoint_folder

if TYPE_CHECKING:
    from famba_core.train import EpochMetrics, Trainer, TrainResult

# What a row takes from the isolated measurement of its training step.
_ISOLATED = ("step_time_ms", "throughput_img_per_s", "peak_memory_mib", "peak_memory_source")


def run_trial(
    trial: TrialPlan,
    attempt: int,
    folder: Path,
    trainer_of: Callable[[TrialPlan, Path], Trainer] | None = None,
) -> Generator[EpochMetrics, None, ResultRow]:
    """Train a trial, from its checkpoint if there is one, and store its row in the study `folder`.

    Yields the epochs as they end; returns the row, which is stored by then. Whatever goes wrong in training makes a
    failed row. An interrupt, and closing the generator, leave the checkpoint and no row. The row's step time and memory
    are those of the isolated measurement, if one is stored.

    Args:
        trainer_of: makes the trainer of a trial with its checkpoint's folder; None trains for real.

    Raises OutOfMemory, because the trial may fit alone, and OSError where the folder is full or the row cannot be
    stored.
    """
    import torch  # here, because the process that drives the workers needs none of it

    from famba_core.train import NonFiniteLoss

    checkpoint = checkpoint_folder(folder, trial.trial_id)
    progress = TrialProgress.read(checkpoint)
    driver = token_of(folder)
    if progress is None or progress.attempt != attempt:
        progress = TrialProgress.begin(attempt, trial.train.epochs, driver)
    progress = replace(progress, driver=driver, suggestion=trial.suggestion)
    progress.write(checkpoint)
    isolated = read_measurement(folder, measure_id(trial))
    start = time.perf_counter() - progress.wall_time_s
    trainer = result = error = None
    stopped = retriable = False
    try:
        trainer = (trainer_of or _resumed_trainer)(trial, checkpoint)
        stopped = _stops_early(trial, trainer, folder)  # where an earlier worker died before it could say so
        if not stopped:
            for metrics in trainer:
                replace(progress, epoch=metrics.epoch, wall_time_s=time.perf_counter() - start).write(checkpoint)
                yield metrics
                if stopped := _stops_early(trial, trainer, folder):
                    break
        result = None if stopped else trainer.result()
    except Exception as exception:
        if isinstance(exception, OSError) and exception.errno in FOLDER_ERRORS:
            raise
        error = explain(exception, trial, folder, f"{trial.trial_id}.{attempt}")
        if is_out_of_memory(exception):
            raise OutOfMemory(error) from exception
        retriable = not isinstance(exception, NonFiniteLoss)  # from the last good epoch; this one would come again
    history = trainer.history if trainer else ()
    row = ResultRow(
        **planned_columns(trial),
        attempt=attempt,
        status="failed" if error else "pruned" if stopped else "completed",
        error=error,
        **_columns_of_epochs(history),
        **(_columns_of_result(result, trial.train.epochs, isolated) if result else {}),
        wall_time_s=time.perf_counter() - start,
        torch_version=torch.__version__,
        git_commit=git_commit(),
        started_at=dt.datetime.fromisoformat(progress.started_at),
        finished_at=dt.datetime.now(dt.UTC),
    )
    write_result(folder, row, [_epoch_row(trial, attempt, metrics) for metrics in history])
    if not retriable:
        shutil.rmtree(checkpoint, ignore_errors=True)
    return row


def new_trainer(trial: TrialPlan, checkpoint: Path | None) -> Trainer:
    """What trains the trial, from the state in the folder `checkpoint` if there is one."""
    from famba_core.train import Trainer

    return Trainer(
        model=trial.model,
        fusion=_without_labels(trial.fusion),
        data=trial.data,
        augment=trial.augment,
        train=trial.train,
        threads=trial.cpus_per_trial,
        device="cuda" if trial.gpus_per_trial else "cpu",
        checkpoint=checkpoint,
    )


def _resumed_trainer(trial: TrialPlan, checkpoint: Path) -> Trainer:
    """The trial's trainer, at its checkpoint, or at the start where that is of another run."""
    from famba_core.train import CHECKPOINT

    try:
        return new_trainer(trial, checkpoint)
    except ConfigError as error:
        if [field for field, _ in error.problems] != ["checkpoint"]:
            raise
        (checkpoint / CHECKPOINT).unlink()  # the folder is this trial's own: an older version of the program wrote it
        return new_trainer(trial, checkpoint)


def _stops_early(trial: TrialPlan, trainer: Trainer, folder: Path) -> bool:
    """Whether others did better with as many epochs of the same training. A trial at its end is not stopped."""
    history = trainer.history
    if trial.early_stop is None or not history or history[-1].epoch == trial.train.epochs:
        return False
    best = max(metrics.top1_pct for metrics in history)
    return not goes_on(folder, rung_group(trial), trial.trial_id, history[-1].epoch, best, trial.early_stop)


def _without_labels(fusion: FusionConfig) -> FusionConfig:
    """What runs. A checkpoint must still fit after another case of the grid has lent its labels to the trial."""
    return FusionConfig(schedule=fusion.schedule, order=fusion.order, weighting=fusion.weighting)


def failed_row(trial: TrialPlan, attempt: int, error: str) -> ResultRow:
    """The row of an attempt whose worker could not write one."""
    return ResultRow(
        **planned_columns(trial),
        attempt=attempt,
        status="failed",
        error=error,
        git_commit=git_commit(),
        finished_at=dt.datetime.now(dt.UTC),
    )


def planned_columns(trial: TrialPlan) -> dict[str, Any]:
    """The columns that are known before a trial runs."""
    model, fusion, train = trial.model, trial.fusion, trial.train
    assert fusion.schedule is not None, "a planned trial knows its schedule"
    return {
        "study": trial.study,
        "profile": trial.profile,
        "trial_id": trial.trial_id,
        "backbone": model.backbone,
        "image_size": model.image_size,
        "patch_size": model.patch,
        "cls_position": model.cls_position,
        "strategy": fusion.strategy,
        "start_layer": fusion.start_layer,
        "stop_layer": fusion.stop_layer,
        "r": fusion.r,
        "order": fusion.order,
        "weighting": fusion.weighting,
        "schedule": fusion.schedule,
        "reduced_tokens": sum(fusion.schedule),
        "tokens_per_image": sum(tokens_per_layer(fusion.schedule, model.num_tokens)),
        "dataset": trial.data.dataset,
        "train_images": trial.data.train_images,
        "epochs": train.epochs,
        "batch_size": train.batch_size,
        "precision": train.precision,
        "seed": train.seed,
        "cpus_per_trial": trial.cpus_per_trial,
        "gpus_per_trial": trial.gpus_per_trial,
        "suggestion": trial.suggestion,
    }


def _columns_of_epochs(history: Sequence[EpochMetrics]) -> dict[str, Any]:
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


def _columns_of_result(result: TrainResult, epochs: int, isolated: Mapping[Any, Any] | None) -> dict[str, Any]:
    columns = asdict(result) | {"measured": "in_training"}
    if isolated is None or isolated["device_name"] != result.device_name:
        return columns
    steps = epochs * isolated["steps_per_epoch"]
    return columns | {
        "measured": "isolated",
        "isolated_train_time_s": steps * isolated["step_time_ms"] / 1e3,
        **{name: isolated[name] for name in _ISOLATED},
    }


def _epoch_row(trial: TrialPlan, attempt: int, metrics: EpochMetrics) -> EpochRow:
    columns = asdict(metrics)
    columns.pop("epochs")
    return EpochRow(study=trial.study, trial_id=trial.trial_id, attempt=attempt, **columns)


@functools.cache
def git_commit() -> str | None:
    """The commit of the source that runs, if it runs from a checkout."""
    checkout = Path(__file__).resolve().parents[1]
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
