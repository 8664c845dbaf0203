"""One trial after another in this process: for a debugger, a profiler, a machine without Ray."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.errors import UserError
from sweep.executor import Event, Finished, Lost, Progress
from sweep.plan import TrialPlan
from sweep.schema import ResultRow
from sweep.trial import run_trial

if TYPE_CHECKING:
    from famba_core.train import EpochMetrics


class InProcessExecutor:
    """Trains one epoch in each `poll`.

    More `cpus_per_trial` than the machine has cores are only slow, and give the numbers that were planned; a GPU
    that is not there raises UserError.
    """

    capacity = 1

    def __init__(self, folder: Path, trials: Sequence[TrialPlan]) -> None:
        import torch

        gpus, there = max(trial.gpus_per_trial for trial in trials), torch.cuda.device_count()
        if gpus > there:
            raise UserError(f"a trial takes {gpus:g} GPUs (gpus_per_trial), and this machine has {there}")
        self._folder = folder
        self._trial_id = ""
        self._epochs: Generator[EpochMetrics, None, ResultRow] | None = None

    def submit(self, trial: TrialPlan, attempt: int) -> None:
        assert self._epochs is None, "one trial at a time"
        self._trial_id = trial.trial_id
        self._epochs = run_trial(trial, attempt, self._folder)

    def poll(self, timeout_s: float) -> list[Event]:
        if self._epochs is None:
            return []
        try:
            return [Progress(trial_id=self._trial_id, metrics=next(self._epochs))]
        except StopIteration as end:
            row: ResultRow = end.value
            event: Event = Finished(trial_id=row.trial_id, status=row.status, error=row.error)
        except Exception as error:  # the row could not be stored
            event = Lost(trial_id=self._trial_id, reason=f"{type(error).__name__}: {error}")
        self._epochs = None
        return [event]

    def close(self) -> None:
        if self._epochs is not None:
            self._epochs.close()
            self._epochs = None
