"""What a trial occupies and a run may take: the profile's resources, the grid's pool, the flags; the last one wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from famba_core.config import ConfigError
from sweep.errors import Problem, UserError
from sweep.grid.findings import Findings, field_types
from sweep.grid.pool import Pool
from sweep.grid.profiles import Resources

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


def read_pool(values: Mapping[str, Any], findings: Findings) -> Pool | None:
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
