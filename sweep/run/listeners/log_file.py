"""The run's log: every start, end, loss, retry and note, with times, appended to run.log in the study's folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from famba_core.training.metrics import EpochMetrics
from sweep.executors.base import TrainJob
from sweep.run.listeners.base import RunListener
from sweep.schema import Status

_log = logging.getLogger(__name__)


class LogFile(RunListener):
    """A listener that logs what happens through `logging`. `sweep.store.log.logging_to` writes it to a file."""

    def run_began(self, trial_ids: Sequence[str], *, planned: int, capacity: int) -> None:
        _log.info("run begins: %d of %d trials to train, %d concurrently", len(trial_ids), planned, capacity)

    def run_ended(self) -> None:
        _log.info("run ends")

    def measuring_began(self, total: int) -> None:
        _log.info("measuring %d schedules first", total)

    def measuring_ended(self) -> None:
        _log.info("measuring ends")

    def started(self, job: TrainJob) -> None:
        _log.info("%s: submitted, attempt %d, %g GPUs", job.job_id, job.attempt, job.resources.gpus)

    def progress(self, trial_id: str, metrics: EpochMetrics) -> None:
        _log.info(
            "%s: epoch %d/%d, loss %.3f, top-1 %.1f%%",
            trial_id, metrics.epoch, metrics.epochs, metrics.loss, metrics.top1_pct,
        )  # fmt: skip

    def lost(self, trial_id: str, reason: str) -> None:
        _log.warning("%s: worker lost: %s", trial_id, reason)

    def ended(self, trial_id: str, status: Status, error: str | None) -> None:
        if error:
            _log.error("%s: %s: %s", trial_id, status, error)
        else:
            _log.info("%s: %s", trial_id, status)

    def note(self, sentence: str) -> None:
        _log.warning("%s", sentence)
