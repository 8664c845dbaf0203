"""Runs a job in a worker, on every executor."""

from __future__ import annotations

import importlib
import os
from collections.abc import Generator
from pathlib import Path

from famba_core.training.metrics import EpochMetrics
from sweep.executors.base import Finished, Job, Lost, Measured, MeasureJob, TrainJob
from sweep.plan.identity import measure_id
from sweep.plan.model import Trial
from sweep.store.layout import StudyPaths
from sweep.store.log import logging_to
from sweep.store.study import read_measurement
from sweep.worker.errors import FOLDER_ERRORS, OutOfMemory
from sweep.worker.measure import measure_all
from sweep.worker.rows import code_columns
from sweep.worker.trial import MakeTrainer, run_trial

# Imported by every trial: by torch's optimizers, by the data sets, by pyarrow when it writes.
_SLOW_IMPORTS = ("torch._dynamo", "torch.profiler", "sklearn.datasets", "PIL.Image", "pyarrow.pandas_compat")


def warm_up() -> None:
    """Import what jobs need. This starts no threads and touches no GPU, so that the process may fork afterwards."""
    code_columns()  # the commit is read once, before anybody may change it
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # to ask for GPUs without CUDA's driver, which no fork survives
    for name in ("famba_core.training.trainer", "famba_core.cost.measure", *_SLOW_IMPORTS):
        importlib.import_module(name)


def run_job(
    job: Job, folder: Path, make_trainer: MakeTrainer | None = None
) -> Generator[EpochMetrics | Measured, None, Finished | Lost]:
    """Run a job and store its results in the study `folder`. Yields its epochs or measurements, returns its end.

    What happens is also logged to the study's run.log.

    A trial that has a GPU to itself measures its own step before it trains, unless a measurement of such a GPU is
    stored. A job that runs out of memory, or whose folder is full or read-only, is lost: it has no result.

    Args:
        make_trainer: returns a trainer in place of the real one, for simulations; then nothing is measured.

    Raises OSError if something cannot be stored for another reason.
    """
    with logging_to(StudyPaths(folder).run_log):
        try:
            if make_trainer is None:
                yield from measure_all(_trials_to_measure(job, folder), folder)
            match job:
                case MeasureJob():
                    return Finished(job_id=job.job_id, status="completed", error=None)
                case TrainJob():
                    row = yield from run_trial(job, folder, make_trainer)
                    return Finished(job_id=job.job_id, status=row.status, error=row.error)
        except OutOfMemory as error:
            return Lost(job_id=job.job_id, reason=str(error), out_of_memory=True)
        except OSError as error:
            if error.errno not in FOLDER_ERRORS:
                raise
            return Lost(job_id=job.job_id, reason=error.strerror or str(error), folder_failed=True)


def _trials_to_measure(job: Job, folder: Path) -> tuple[Trial, ...]:
    """Return a measuring job's trials; or a job's trial, if it has a whole GPU and no measurement on such a GPU."""
    if isinstance(job, MeasureJob):
        return job.trials
    if job.resources.gpus < 1:
        return ()
    stored = read_measurement(folder, measure_id(job.trial))
    if stored is None:
        return (job.trial,)
    import torch

    from famba_core.device import device_name

    if not torch.cuda.is_available():  # training will report it
        return ()
    # A study may move to machines with other GPUs.
    return () if stored["device_name"] == device_name(torch.device("cuda")) else (job.trial,)
