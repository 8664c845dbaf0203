"""Messages between the driver and Ray's process.

The driver sends a `Start` first, and gets a `ClusterCapacity` back. A `Failure` is always the last message.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from famba_core.errors import Problem
from sweep.errors import UserError
from sweep.executors.base import Event, Job, ResourceRequest, RunJob
from sweep.executors.ray_tune.node_check import FolderProbe


@dataclass(frozen=True, kw_only=True)
class Start:
    """Start Ray, or join a cluster."""

    address: str | None  # of the cluster; None starts Ray on this machine
    request: ResourceRequest  # of the largest job
    folder: Path  # the study's
    probe: FolderProbe | None  # every node must be able to read it; None if Ray runs on this machine only
    code_hash: str  # of the driver's code, which workers must have
    scratch: Path  # for Ray's temporary files
    run: RunJob
    warm_up: Callable[[], None] | None  # imports what jobs need, in a process that forks afterwards
    head_timeout_s: float  # Ray has failed if its head does not answer for so long


@dataclass(frozen=True)
class Submit:
    """Run a job as soon as a slot is free."""

    job: Job


@dataclass(frozen=True)
class Stop:
    """Kill a job's worker."""

    job_id: str


@dataclass(frozen=True)
class Close:
    """Stop all jobs and exit."""


@dataclass(frozen=True, kw_only=True)
class ClusterCapacity:
    """What the cluster has for jobs now."""

    slots: int  # jobs that can run concurrently
    gpu_memory_mib: float | None  # of the smallest GPU; None without a GPU, or if it is unknown


@dataclass(frozen=True)
class Note:
    """A warning for the user."""

    sentence: str


class RayFailed(Exception):
    """Ray itself does not start, or stopped working."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The error that ended Ray's process, as text, because unpickling Ray's exceptions would import Ray."""

    problems: tuple[Problem, ...] = ()  # of a UserError
    ray_failed: str = ""  # the reason of a RayFailed
    traceback: str = ""  # of any other exception

    @classmethod
    def of(cls, error: Exception) -> Failure:
        match error:
            case UserError():
                return cls(problems=error.problems)
            case RayFailed():
                return cls(ray_failed=str(error))
        return cls(traceback="".join(traceback.format_exception(error)))


ToRay = Submit | Stop | Close
ToDriver = ClusterCapacity | Note | Event | Failure
