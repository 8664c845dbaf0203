"""What a worker does for a job, whichever executor it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.executors.base import Finished, Job, Lost, Measured, MeasureJob
from sweep.plan.identity import measure_id
from sweep.plan.model import Trial
from sweep.store.study import read_measurement
from sweep.worker.errors import FOLDER_ERRORS, OutOfMemory
from sweep.worker.measure import measure_all
from sweep.worker.trial import run_trial

if TYPE_CHECKING:
    from famba_core.training.trainer import EpochMetrics


def run_job(
    job: Job, attempt: int, folder: Path, trainer_of: Callable[[Trial, Path], Any] | None = None
) -> Generator[EpochMetrics | Measured, None, Finished | Lost]:
    """Train a trial, or measure; everything is stored in the study `folder` by the end. Yields the steps on the way.

    A trial that has a GPU to itself measures its own step before it trains, where no measurement of such a GPU is
    stored. One that finds no memory, and a folder that
    is full or read-only, are no results: the job is lost.

    Args:
        trainer_of: makes another trainer than the real one, in simulations; then nothing is measured.

    Raises OSError if something cannot be stored for another reason.
    """
    try:
        if trainer_of is None:
            yield from measure_all(_to_measure(job, folder), folder)
        if isinstance(job, MeasureJob):
            return Finished(trial_id=job.trial_id, status="completed", error=None)
        row = yield from run_trial(job, attempt, folder, trainer_of)
        return Finished(trial_id=row.trial_id, status=row.status, error=row.error)
    except OutOfMemory as error:
        return Lost(trial_id=job.trial_id, reason=str(error), out_of_memory=True)
    except OSError as error:
        if error.errno not in FOLDER_ERRORS:
            raise
        return Lost(trial_id=job.trial_id, reason=error.strerror or str(error), folder_failed=True)


def _to_measure(job: Job, folder: Path) -> MeasureJob:
    if isinstance(job, MeasureJob):
        return job
    measures = job.gpus_per_trial >= 1 and not _is_measured(job, folder)
    return MeasureJob(trials=(job,) if measures else ())


def _is_measured(trial: Trial, folder: Path) -> bool:
    """Whether the trial's step has been measured on a GPU as this process has: a study may move to other machines."""
    stored = read_measurement(folder, measure_id(trial))
    if stored is None:
        return False
    import torch

    from famba_core.device import device_name

    if not torch.cuda.is_available():  # which training will say
        return True
    return bool(stored["device_name"] == device_name(torch.device("cuda")))
