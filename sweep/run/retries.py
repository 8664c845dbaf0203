"""What becomes of a trial whose worker was lost: it goes on, gets a device to itself, or has failed."""

from __future__ import annotations

from dataclasses import replace

from sweep.executors.base import Lost
from sweep.plan.model import Trial


class RetryPolicy:
    """Those of one run, told one after another."""

    def __init__(self) -> None:
        self._lost_at: dict[str, int] = {}  # trial -> epoch; a trial that is lost twice at one epoch has failed
        self._alone: set[str] = set()  # out of memory, and so with a device to themselves

    def runs_alone(self, trial: Trial) -> bool:
        """Whether it ran out of memory, and gets a device to itself."""
        return trial.trial_id in self._alone

    def needs_whole_machine(self, trial: Trial) -> bool:
        """Whether the device that it gets to itself is a CPU, and so the whole machine."""
        return self.runs_alone(trial) and not trial.gpus_per_trial

    def answer(self, trial: Trial, epoch: int, event: Lost) -> tuple[Trial | None, str]:
        """The trial as it is to run again, None where it has failed, and why.

        Args:
            epoch: the last one that ended under this driver since the trial was submitted.
        """
        if event.out_of_memory:
            if self.runs_alone(trial):
                return None, f"{event.reason}; also with a device to itself"
            self._alone.add(trial.trial_id)
            alone = replace(trial, gpus_per_trial=1.0) if trial.gpus_per_trial else trial
            return alone, f"{event.reason}; once more with a device to itself"
        if not event.machine_left:  # which is not the trial's doing
            if epoch <= self._lost_at.get(trial.trial_id, -1):
                return None, f"lost twice: {event.reason}"
            self._lost_at[trial.trial_id] = epoch
        return trial, f"{event.reason}; it goes on from its checkpoint"
