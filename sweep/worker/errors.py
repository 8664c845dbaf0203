"""Why a trial failed, and what is no failure of the trial."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from sweep.plan.model import Trial
from sweep.store.layout import StudyPaths

# The study's folder, and not the trial, is what fails: no other trial could store its row either.
FOLDER_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


# What else says so: torch's CPU allocator; a CUDA context, graph, kernel or library that finds no room to begin.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class OutOfMemory(Exception):
    """A trial did not fit beside what shares its device; its checkpoint stays."""


def explain(error: Exception, trial: Trial, folder: Path, name: str) -> str:
    """What went wrong, in one sentence; the traceback goes into a log of that name, which the sentence gives."""
    from famba_core.training.trainer import NonFiniteLoss

    log = StudyPaths(folder).log(name)
    log.parent.mkdir(exist_ok=True)
    log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    message = " ".join(str(error).split("\n\n")[0].split())
    if is_out_of_memory(error):
        message = f"out of memory with batches of {trial.train.batch_size} images{message and f': {message}'}"
    elif not isinstance(error, NonFiniteLoss):
        message = f"{type(error).__name__}: {message}"
    return f"{message} (traceback in {log.relative_to(folder)})"


def is_out_of_memory(error: Exception) -> bool:
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return any(words in str(error) for words in _OUT_OF_MEMORY)
