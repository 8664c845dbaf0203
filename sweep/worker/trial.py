"""Trial -> trained epochs and a stored row."""

from __future__ import annotations

import datetime as dt
import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from famba_core.config import ConfigError, FusionConfig
from sweep.plan.identity import measure_id, rung_group
from sweep.plan.model import Trial
from sweep.schema import ResultRow
from sweep.store.layout import StudyPaths
from sweep.store.lock import read_last_holder_token
from sweep.store.progress import TrialProgress
from sweep.store.study import read_measurement, write_result
from sweep.worker.early_stop import goes_on
from sweep.worker.errors import FOLDER_ERRORS, OutOfMemory, explain, is_out_of_memory
from sweep.worker.rows import columns_of_epochs, columns_of_result, epoch_row, git_commit, planned_columns

if TYPE_CHECKING:
    from famba_core.training.trainer import EpochMetrics, Trainer


def run_trial(
    trial: Trial,
    attempt: int,
    folder: Path,
    trainer_of: Callable[[Trial, Path], Trainer] | None = None,
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

    from famba_core.training.trainer import NonFiniteLoss

    checkpoint = StudyPaths(folder).checkpoint(trial.trial_id)
    progress = TrialProgress.read(checkpoint)
    driver = read_last_holder_token(folder)
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
        **columns_of_epochs(history),
        **(columns_of_result(result, trial.train.epochs, isolated) if result else {}),
        wall_time_s=time.perf_counter() - start,
        torch_version=torch.__version__,
        git_commit=git_commit(),
        started_at=dt.datetime.fromisoformat(progress.started_at),
        finished_at=dt.datetime.now(dt.UTC),
    )
    write_result(folder, row, [epoch_row(trial, attempt, metrics) for metrics in history])
    if not retriable:
        shutil.rmtree(checkpoint, ignore_errors=True)
    return row


def new_trainer(trial: Trial, checkpoint: Path | None) -> Trainer:
    """What trains the trial, from the state in the folder `checkpoint` if there is one."""
    from famba_core.training.trainer import Trainer

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


def _resumed_trainer(trial: Trial, checkpoint: Path) -> Trainer:
    """The trial's trainer, at its checkpoint, or at the start where that is of another run."""
    from famba_core.training.trainer import CHECKPOINT

    try:
        return new_trainer(trial, checkpoint)
    except ConfigError as error:
        if [field for field, _ in error.problems] != ["checkpoint"]:
            raise
        (checkpoint / CHECKPOINT).unlink()  # the folder is this trial's own: an older version of the program wrote it
        return new_trainer(trial, checkpoint)


def _stops_early(trial: Trial, trainer: Trainer, folder: Path) -> bool:
    """Whether others did better with as many epochs of the same training. A trial at its end is not stopped."""
    history = trainer.history
    if trial.early_stop is None or not history or history[-1].epoch == trial.train.epochs:
        return False
    best = max(metrics.top1_pct for metrics in history)
    return not goes_on(folder, rung_group(trial), trial.trial_id, history[-1].epoch, best, trial.early_stop)


def _without_labels(fusion: FusionConfig) -> FusionConfig:
    """What runs. A checkpoint must still fit after another case of the grid has lent its labels to the trial."""
    return FusionConfig(schedule=fusion.schedule, order=fusion.order, weighting=fusion.weighting)
