"""Explains why a trial failed, and tells errors of the trial from those of its surroundings."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from sweep.plan.model import Trial
from sweep.store.layout import StudyPaths

# The study's folder fails, not the trial: no other trial could store its row either.
FOLDER_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

# Words of errors other than torch.OutOfMemoryError: the CPU allocator, CUDA contexts, graphs, kernels and libraries.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class OutOfMemory(Exception):
    """A trial that does not fit beside the others on its device. Its checkpoint stays."""


def explain(error: Exception, trial: Trial, folder: Path, name: str) -> str:
    """Return the error in one sentence, which names the log that holds the traceback."""
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
