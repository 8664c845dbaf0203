"""Trains a trial from its checkpoint, and stores its row."""

from __future__ import annotations

import datetime as dt
import logging
import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from famba_core.config import ConfigError
from famba_core.training.metrics import EpochMetrics
from sweep.executors.base import TrainJob
from sweep.plan.identity import measure_id, rung_group
from sweep.plan.model import Trial
from sweep.schema import ResultRow
from sweep.store.layout import StudyPaths
from sweep.store.lock import read_last_holder_token
from sweep.store.progress import TrialProgress
from sweep.store.rungs import continues
from sweep.store.study import read_measurement, write_result
from sweep.worker.errors import FOLDER_ERRORS, OutOfMemory, explain, is_out_of_memory
from sweep.worker.rows import code_columns, columns_of_epochs, columns_of_result, epoch_row, planned_columns

if TYPE_CHECKING:
    from famba_core.training.trainer import Trainer

_log = logging.getLogger(__name__)

MakeTrainer = Callable[[Trial, Path], "Trainer"]  # from a trial and its checkpoint's folder


def run_trial(
    job: TrainJob, folder: Path, make_trainer: MakeTrainer | None = None
) -> Generator[EpochMetrics, None, ResultRow]:
    """Train a trial, from its checkpoint if there is one, and store its row in the study `folder`.

    Yields the epochs as they end; returns the stored row. An error in training gives a failed row. An interrupt, or
    closing the generator, leaves the checkpoint and no row. The row's step time and memory come from the isolated
    measurement, if one is stored.

    Args:
        make_trainer: returns the trial's trainer; None trains for real.

    Raises OutOfMemory, because the trial may fit alone, and OSError if the folder is full or the row cannot be stored.
    """
    attempt = _Attempt(job, folder)
    error, retriable, result = None, False, None
    try:
        trainer = attempt.trainer = (make_trainer or _resumed_trainer)(job.trial, attempt.checkpoint)
        _log.info("%s: attempt %d starts after epoch %d", job.job_id, job.attempt, len(trainer.history))
        stopped = attempt.stops_early()  # if an earlier worker died before it could store the row
        if not stopped:
            for metrics in trainer:
                attempt.save_progress(metrics.epoch)
                yield metrics
                if stopped := attempt.stops_early():
                    break
        result = None if stopped else trainer.result()
    except Exception as exception:
        from famba_core.training.trainer import NonFiniteLoss

        if isinstance(exception, OSError) and exception.errno in FOLDER_ERRORS:
            raise
        error = explain(exception, job.trial, folder, f"{job.job_id}.{job.attempt}")
        if is_out_of_memory(exception):
            raise OutOfMemory(error) from exception
        retriable = not isinstance(exception, NonFiniteLoss)  # which would come again after the last good epoch
    isolated = read_measurement(folder, measure_id(job.trial))
    status = "failed" if error else "completed" if result else "pruned"
    columns = columns_of_result(result, job.trial.train.epochs, isolated) if result else {}
    row = attempt.row(status=status, error=error, **columns)
    write_result(folder, row, [epoch_row(job, metrics) for metrics in attempt.history])
    if not retriable:
        shutil.rmtree(attempt.checkpoint, ignore_errors=True)
    return row


class _Attempt:
    """One attempt of a trial: its progress, checkpoint and row."""

    def __init__(self, job: TrainJob, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.checkpoint = StudyPaths(folder).checkpoint(job.job_id)
        self.trainer: Trainer | None = None
        self._code = code_columns()
        progress, driver = TrialProgress.read(self.checkpoint), read_last_holder_token(folder)
        if progress is None or progress.attempt != job.attempt:
            progress = TrialProgress.begin(job.attempt, job.trial.train.epochs, driver)
        self._progress = replace(progress, driver=driver, suggestion=job.suggestion)
        self._progress.write(self.checkpoint)
        self._start = time.perf_counter() - self._progress.wall_time_s

    @property
    def history(self) -> tuple[EpochMetrics, ...]:
        return self.trainer.history if self.trainer else ()

    def save_progress(self, epoch: int) -> None:
        replace(self._progress, epoch=epoch, wall_time_s=self._wall_time_s()).write(self.checkpoint)

    def stops_early(self) -> bool:
        """True if other trials did better after as many epochs. A trial is not stopped at its last epoch."""
        trial, history = self.job.trial, self.history
        if trial.early_stop is None or not history or history[-1].epoch == trial.train.epochs:
            return False
        best = max(metrics.top1_pct for metrics in history)
        group, epoch = rung_group(trial), history[-1].epoch
        return not continues(self.folder, group, trial.trial_id, epoch, best, trial.early_stop)

    def row(self, **columns: Any) -> ResultRow:
        import torch  # not at the top: the driver imports this module

        return ResultRow(
            **planned_columns(self.job),
            **columns_of_epochs(self.history),
            **columns,
            wall_time_s=self._wall_time_s(),
            torch_version=torch.__version__,
            **self._code,
            started_at=dt.datetime.fromisoformat(self._progress.started_at),
            finished_at=dt.datetime.now(dt.UTC),
        )

    def _wall_time_s(self) -> float:
        return time.perf_counter() - self._start


def new_trainer(trial: Trial, checkpoint: Path | None) -> Trainer:
    """Return the trial's trainer, resumed from the folder `checkpoint` if it holds a checkpoint."""
    from famba_core.training.trainer import Trainer

    return Trainer(
        model=trial.model,
        fusion=trial.fusion,
        data=trial.data,
        augment=trial.augment,
        train=trial.train,
        threads=trial.cpus_per_trial,
        device="cuda" if trial.gpus_per_trial else "cpu",
        checkpoint=checkpoint,
    )


def _resumed_trainer(trial: Trial, checkpoint: Path) -> Trainer:
    """Return the trial's trainer at its checkpoint, or at the start if the checkpoint is of another run."""
    from famba_core.training.trainer import CHECKPOINT

    try:
        return new_trainer(trial, checkpoint)
    except ConfigError as error:
        if [problem.key for problem in error.problems] != ["checkpoint"]:
            raise
        (checkpoint / CHECKPOINT).unlink()  # an older version of the program wrote it: no other trial uses this folder
        return new_trainer(trial, checkpoint)
