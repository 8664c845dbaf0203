"""What happens to a trial whose worker died: it is resumed, retried alone on a device, or marked failed."""

from __future__ import annotations

from dataclasses import replace

from sweep.executors.base import Lost, TrainJob


class RetryPolicy:
    """Decides whether a trial whose worker died is resumed, retried alone on a device, or marked failed."""

    def __init__(self) -> None:
        self._lost_at: dict[str, int] = {}  # trial_id -> epoch of the last loss
        self._alone: set[str] = set()  # trials that ran out of memory

    def runs_alone(self, job: TrainJob) -> bool:
        """True if the trial ran out of memory and now gets a device to itself."""
        return job.job_id in self._alone

    def needs_whole_machine(self, job: TrainJob) -> bool:
        """True if this is an out-of-memory retry on the CPU, which must run alone."""
        return self.runs_alone(job) and not job.resources.gpus

    def decide(self, job: TrainJob, epoch: int, lost: Lost) -> tuple[TrainJob | None, str]:
        """Return the job to run next, None for a failed trial, and the reason.

        Args:
            epoch: the last epoch that ended since this driver submitted the job. A trial that is lost twice without an
                epoch in between fails.
        """
        if lost.out_of_memory:
            if self.runs_alone(job):
                return None, f"{lost.reason} again, although it had a device to itself"
            self._alone.add(job.job_id)
            alone = replace(job, resources=replace(job.resources, gpus=1.0)) if job.resources.gpus else job
            return alone, f"{lost.reason}; retrying with a device to itself"
        if not lost.node_left:
            if epoch <= self._lost_at.get(job.job_id, -1):
                return None, f"lost twice without an epoch in between: {lost.reason}"
            self._lost_at[job.job_id] = epoch
        return job, f"{lost.reason}; resuming from its checkpoint"
