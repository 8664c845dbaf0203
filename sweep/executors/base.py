"""What the runner needs of an executor: jobs, events, and the protocol submit, poll, stop, close."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from famba_core.config import FusionConfig
from famba_core.training.metrics import EpochMetrics
from sweep.plan.model import Trial
from sweep.schema import Status


@dataclass(frozen=True, kw_only=True)
class ResourceRequest:
    """What one job occupies on one node."""

    cpus: int  # threads
    gpus: float = 0.0  # 0 runs on the CPU; below 1, jobs share a GPU; above 1, a whole number
    accelerator_type: str | None = None  # Ray's name of the GPU type, such as A100

    @classmethod
    def of_trial(cls, trial: Trial) -> ResourceRequest:
        """Return what the trial's plan asks for."""
        return cls(cpus=trial.cpus_per_trial, gpus=trial.gpus_per_trial, accelerator_type=trial.accelerator_type)

    @classmethod
    def largest(cls, requests: Iterable[ResourceRequest]) -> ResourceRequest:
        """Return a request that covers each of these, at least one."""
        each = list(requests)
        return cls(
            cpus=max(request.cpus for request in each),
            gpus=max(request.gpus for request in each),
            accelerator_type=next((r.accelerator_type for r in each if r.accelerator_type), None),
        )

    def __str__(self) -> str:
        of_type = f" of type {self.accelerator_type} (accelerator_type)" if self.accelerator_type else ""
        return f"{self.cpus} CPUs and {self.gpus:g} GPUs (cpus_per_trial, gpus_per_trial){of_type}"


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """An attempt at a trial: training, from the trial's checkpoint if there is one."""

    kind: Literal["train"] = "train"
    trial: Trial
    attempt: int  # 1 for the first
    labels: FusionConfig  # of the first case that asks for the trial; they enter its row
    resources: ResourceRequest
    suggestion: int | None = None  # 1-based index among the search's suggestions

    @property
    def job_id(self) -> str:
        return self.trial.trial_id


@dataclass(frozen=True, kw_only=True)
class MeasureJob:
    """Isolated measurements, taken one after another in one process."""

    kind: Literal["measure"] = "measure"
    trials: tuple[Trial, ...]  # one for each measurement
    job_id: str = "measuring"

    @property
    def resources(self) -> ResourceRequest:
        """Return a whole GPU where any of the trials uses one, even if trials share it."""
        largest = ResourceRequest.largest(map(ResourceRequest.of_trial, self.trials))
        gpus = 1.0 if largest.gpus else 0.0
        return ResourceRequest(cpus=largest.cpus, gpus=gpus, accelerator_type=self.trials[0].accelerator_type)


Job = TrainJob | MeasureJob  # told apart by `kind`


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The end of one measurement: stored, or failed with an error."""

    measure_id: str
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Started:
    """The job's worker runs now. Until then the job waited for a slot."""

    job_id: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """An epoch of a train job, or a measurement of a measure job, has ended."""

    job_id: str
    metrics: EpochMetrics | Measured


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The job ended, well or badly, and its worker stored the result."""

    job_id: str
    status: Status
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Lost:
    """The job ended without confirming that its result was stored: killed, stopped, out of memory, or a full disk."""

    job_id: str
    reason: str
    out_of_memory: bool = False  # it may fit alone on a device
    node_left: bool = False  # its node left the cluster, which is not the job's fault
    folder_failed: bool = False  # the study's folder is full or read-only, so no job can store a row


Event = Started | Progress | Finished | Lost

# What a worker does for a job in a study's folder: yields its steps, returns its end.
# `sweep.worker.job.run_job` is the real one.
RunJob = Callable[[Job, Path], Generator["EpochMetrics | Measured", None, Finished | Lost]]


class Executor(Protocol):
    """Where jobs run. Resume, retries and the store live above it, so all executors share them."""

    @property
    def capacity(self) -> int:
        """How many jobs can run concurrently now. Changes as nodes join or leave."""

    @property
    def gpu_memory_mib(self) -> float | None:
        """Memory of the smallest GPU that jobs may get; None without a GPU, or if it is unknown."""

    def submit(self, job: Job) -> None:
        """Start a job as soon as a slot is free."""

    def poll(self, timeout_s: float) -> list[Event]:
        """Return the events since the last call, in order; wait up to about `timeout_s` for the first."""

    def stop(self, job_id: str) -> None:
        """Kill a job's worker at once. Its `Lost` follows, unless the job has just ended by itself."""

    def close(self) -> None:
        """Stop all jobs, keep their checkpoints, and free all resources. A second call does nothing."""


# Makes an executor for a study's folder, whose jobs take at most these resources.
ExecutorFactory = Callable[[Path, ResourceRequest], Executor]
