"""What a worker does for a job, whichever executor it belongs to."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.executor import Finished, Job, Lost
from sweep.measure import Measured, MeasureJob, measure_all
from sweep.trial import _FOLDER_ERRORS, OutOfMemory, run_trial

if TYPE_CHECKING:
    from famba_core.train import EpochMetrics


def run_job(job: Job, attempt: int, folder: Path) -> Generator[EpochMetrics | Measured, None, Finished | Lost]:
    """Train a trial, or measure; everything is stored in the study `folder` by the end. Yields the steps on the way.

    A trial that finds no memory, and a folder that is full or read-only, are no results: the job is lost. Raises
    OSError if something cannot be stored for another reason.
    """
    try:
        if isinstance(job, MeasureJob):
            yield from measure_all(job, folder)
            return Finished(trial_id=job.trial_id, status="completed", error=None)
        row = yield from run_trial(job, attempt, folder)
        return Finished(trial_id=row.trial_id, status=row.status, error=row.error)
    except OutOfMemory as error:
        return Lost(trial_id=job.trial_id, reason=str(error), out_of_memory=True)
    except OSError as error:
        if error.errno not in _FOLDER_ERRORS:
            raise
        return Lost(trial_id=job.trial_id, reason=error.strerror or str(error), folder_failed=True)
