"""Explains why a trial failed, and tells errors of the trial from those of its surroundings."""

from __future__ import annotations

import errno
import logging
import traceback
from pathlib import Path

from sweep.plan.model import Trial
from sweep.store.layout import StudyPaths

_log = logging.getLogger(__name__)

# Errors of the study's folder, not of the trial: no other trial could store its row either.
FOLDER_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

# Phrases of out-of-memory errors other than torch.OutOfMemoryError: CPU allocator, CUDA contexts, graphs and libraries.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class OutOfMemory(Exception):
    """A trial ran out of memory on a device that it shared with others. Its checkpoint stays."""


def explain(error: Exception, trial: Trial, folder: Path, name: str) -> str:
    """Write the traceback to the log `name`, and return the error in one sentence that names this file."""
    from famba_core.training.trainer import NonFiniteLoss

    log = StudyPaths(folder).log(name)
    log.parent.mkdir(exist_ok=True)
    log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    message = " ".join(str(error).split("\n\n")[0].split())
    if is_out_of_memory(error):
        message = f"out of memory with batches of {trial.train.batch_size} images" + (f": {message}" if message else "")
    elif not isinstance(error, NonFiniteLoss):
        message = f"{type(error).__name__}: {message}"
    sentence = f"{message} (traceback in {log.relative_to(folder)})"
    _log.error("%s: %s", name, sentence)
    return sentence


def is_out_of_memory(error: Exception) -> bool:
    """True if the trial may succeed with a device to itself."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return any(phrase in str(error) for phrase in _OUT_OF_MEMORY)
