"""What a trial occupies and a run may take: the profile's resources, the grid's pool, the flags; the last one wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from famba_core.config import ConfigError
from sweep.errors import Problem, UserError
from sweep.files.names import is_safe_name
from sweep.grid.validator import Validator, field_types

LEAST_SHARE = 0.01  # of a GPU
MOST = {  # beyond any machine or patience; a number above them is a slip, such as seconds given as hours
    "cpus_per_trial": 1024, "max_concurrent": 100_000, "trial_time_limit_h": 100_000, "time_limit_h": 100_000,
    "gpu_hours": 10_000_000, "gpu_memory_gib": 10_000, "grace_s": 86_400,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The `pool` section of a grid. What is None is the profile's, or unlimited."""

    gpus_per_trial: float | Literal["pack"] | None = None  # of profiles that use GPUs; "pack": as many as fit in memory
    cpus_per_trial: int | None = None  # threads
    accelerator_type: str | None = None  # Ray's name of the GPU to run on, such as A100, H100, H200
    max_concurrent: int | None = None  # trials at the same time
    trial_time_limit_h: float | None = None  # hours; a trial that runs longer is ended and stored as failed
    time_limit_h: float | None = None  # hours of the run; then it stops as if preempted
    gpu_hours: float | None = None  # that this run may spend; then it stops as if preempted
    gpu_memory_gib: float | None = None  # of one GPU; None asks the device, or takes it from the type's data sheet
    memory_margin: float = 0.1  # share of a GPU's memory that packing leaves free
    grace_s: float = 30.0  # seconds from SIGTERM in which running epochs may end

    def __post_init__(self) -> None:
        above_0 = (
            "cpus_per_trial", "max_concurrent", "trial_time_limit_h", "time_limit_h", "gpu_hours", "gpu_memory_gib",
        )  # fmt: skip
        problems = [
            (name, f"must be above 0, not {value}")
            for name in above_0
            if (value := getattr(self, name)) is not None and value <= 0
        ]
        problems += [
            (name, f"must be at most {most}, not {value:g}")
            for name, most in MOST.items()
            if (value := getattr(self, name)) is not None and value > most
        ]
        gpus = self.gpus_per_trial
        if isinstance(gpus, str) and gpus != "pack":
            problems.append(("gpus_per_trial", f"must be a number or pack, not {gpus!r}"))
        elif isinstance(gpus, float | int) and (sentence := wrong_share(gpus)):
            problems.append(("gpus_per_trial", sentence))
        if self.accelerator_type is not None and not is_safe_name(self.accelerator_type):
            problems.append(("accelerator_type", f"must be a name such as A100, not {self.accelerator_type!r}"))
        if not 0 <= self.memory_margin < 1:
            problems.append(("memory_margin", f"must be at least 0 and below 1, not {self.memory_margin:g}"))
        if self.grace_s < 0:
            problems.append(("grace_s", f"must be at least 0, not {self.grace_s:g}"))
        if problems:
            raise ConfigError(problems)


def wrong_share(gpus: float) -> str | None:
    """What is wrong with a number of GPUs for a trial."""
    if not 0 <= gpus <= 1:
        return f"must be from 0 to 1, not {gpus:g}: a trial uses one GPU"
    if 0 < gpus < LEAST_SHARE:
        return f"must be 0 or at least {LEAST_SHARE}, not {gpus:g}"
    return None


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial occupies."""

    cpus_per_trial: int = 1  # threads
    gpus_per_trial: float = 0.0  # 0 trains on the CPU; below 1, trials share a GPU

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.cpus_per_trial <= MOST["cpus_per_trial"]:
            problems.append(
                ("cpus_per_trial", f"must be from 1 to {MOST['cpus_per_trial']}, not {self.cpus_per_trial}")
            )
        if sentence := wrong_share(self.gpus_per_trial):
            problems.append(("gpus_per_trial", sentence))
        if problems:
            raise ConfigError(problems)


FLAGS = {  # of `famba-sweep run` and `plan`, and the entry of the pool that each sets
    "--gpus-per-trial": "gpus_per_trial",
    "--cpus-per-trial": "cpus_per_trial",
    "--accelerator-type": "accelerator_type",
    "--max-concurrent": "max_concurrent",
    "--trial-time-limit": "trial_time_limit_h",
    "--time-limit": "time_limit_h",
    "--gpu-hours": "gpu_hours",
    "--gpu-memory": "gpu_memory_gib",
    "--grace": "grace_s",
}
_OF_GPUS = ("gpus_per_trial", "accelerator_type", "gpu_hours", "gpu_memory_gib")  # entries without meaning for a CPU
_POOL_KEYS = field_types(Pool)


def read_pool(values: Mapping[str, Any], findings: Validator) -> Pool | None:
    """The `pool` section of a grid; what is wrong goes to `findings`."""
    gpus = str if isinstance(values.get("gpus_per_trial"), str) else float  # which word, the pool itself says
    good = findings.mapping(values, "pool", _POOL_KEYS | {"gpus_per_trial": gpus})
    return findings.config(Pool, good, "pool")


def placed(resources: Resources, pool: Pool, flags: Mapping[str, Any], profile: str) -> tuple[Resources, Pool]:
    """What a trial of a profile occupies, and the pool that is left to obey.

    Args:
        flags: entries of the pool that the command line sets.
        profile: its name, for messages.

    The grid's pool leaves a profile that trains on the CPU there; the flag moves any profile. "pack" plans a whole GPU:
    how many trials share it is known once memory is. Raises UserError for flags that cannot be, or that are for GPUs
    where trials train on the CPU.
    """
    try:
        pool = replace(pool, **flags)
    except ConfigError as error:
        words = {key: flag for flag, key in FLAGS.items()}
        raise UserError(Problem(words.get(key, "pool"), "", sentence) for key, sentence in error.problems) from None
    gpus: float = resources.gpus_per_trial
    if pool.gpus_per_trial is not None and (gpus or "gpus_per_trial" in flags):
        gpus = 1.0 if pool.gpus_per_trial == "pack" else pool.gpus_per_trial
    resources = replace(resources, cpus_per_trial=pool.cpus_per_trial or resources.cpus_per_trial, gpus_per_trial=gpus)
    if gpus:
        return resources, pool
    useless = [flag for flag, key in FLAGS.items() if key in _OF_GPUS and key != "gpus_per_trial" and key in flags]
    if useless:
        raise UserError(
            Problem(flag, "", f"is for GPUs, and profile {profile} trains on the CPU; --gpus-per-trial 1 moves it")
            for flag in useless
        )
    nothing: dict[str, Any] = dict.fromkeys(_OF_GPUS)
    return resources, replace(pool, **nothing)
