"""Where trials run: what one of them occupies, and what a run may take in all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from famba_core.config import ConfigError
from sweep.names import is_plain

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
        if self.accelerator_type is not None and not is_plain(self.accelerator_type):
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
