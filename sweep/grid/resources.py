"""Resources of a trial and limits of a run: from the profile, the grid's pool and the flags; the last one wins."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from famba_core.cost.data_sheets import spell_type
from famba_core.errors import ConfigError, Problem, check_config, setting
from sweep.errors import UserError
from sweep.files.names import is_safe_name
from sweep.grid.validator import Validator, field_types

LEAST_SHARE = 0.01  # of a GPU
# Bounds beyond any machine or patience: a larger number is a slip, such as seconds given as hours.
MOST_CPUS = 1024
MOST_HOURS = 100_000


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The `pool` section of a grid. None means the profile's value, or no limit.

    An entry with a `metavar` can also be set on the command line, by an option of its name without the unit.
    """

    gpus_per_trial: float | Literal["pack"] | None = setting(
        None, "GPUs of a trial, from 0 (the CPU) to 1, or pack: as many trials as fit in memory", metavar="G"
    )
    cpus_per_trial: int | None = setting(None, "threads of a trial", at_least=1, at_most=MOST_CPUS, metavar="N")
    accelerator_type: str | None = setting(
        None, "the GPU to run on by Ray's name, such as A100, A100-80G, H100, H200", metavar="TYPE"
    )
    max_concurrent: int | None = setting(None, "trials at the same time", at_least=1, at_most=100_000, metavar="N")
    trial_time_limit_h: float | None = setting(
        None, "a trial that runs longer is stopped and stored as failed", above=0, at_most=MOST_HOURS, metavar="HOURS"
    )
    time_limit_h: float | None = setting(
        None, "then the run stops as if preempted", above=0, at_most=MOST_HOURS, metavar="HOURS"
    )
    gpu_hours: float | None = setting(
        None,
        "GPU-hours that this run may spend; then it stops as if preempted",
        above=0,
        at_most=10_000_000,
        metavar="HOURS",
    )
    gpu_memory_gib: float | None = setting(
        None,
        "memory of one GPU (default: what the device reports, or its type's data sheet)",
        above=0,
        at_most=10_000,
        metavar="GIB",
    )
    memory_margin: float = setting(0.1, "share of a GPU's memory that packing leaves free", at_least=0, below=1)
    grace_s: float = setting(
        30.0, "seconds after SIGTERM in which running epochs may end", at_least=0, at_most=86_400, metavar="SECONDS"
    )

    def __post_init__(self) -> None:
        gpus, name = self.gpus_per_trial, self.accelerator_type
        number = gpus if isinstance(gpus, int | float) else 0.0
        check_config(
            self,
            ("gpus_per_trial", gpus == "pack" or not isinstance(gpus, str), f"must be a number or pack, not {gpus!r}"),
            *_gpu_rules(number),
            ("accelerator_type", name is None or is_safe_name(name), f"must be a name such as A100, not {name!r}"),
        )


def _gpu_rules(gpus: float) -> Iterator[tuple[str, bool, str]]:
    """Yield the rules for the number of GPUs of a trial, as `check_config` takes them."""
    yield "gpus_per_trial", 0 <= gpus <= 1, f"must be from 0 to 1, not {gpus:g}: a trial uses one GPU"
    yield "gpus_per_trial", not 0 < gpus < LEAST_SHARE, f"must be 0 or at least {LEAST_SHARE}, not {gpus:g}"


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources of one trial."""

    cpus_per_trial: int = setting(1, "threads", at_least=1, at_most=MOST_CPUS)
    gpus_per_trial: float = setting(0.0, "0 trains on the CPU; below 1, trials share a GPU")

    def __post_init__(self) -> None:
        check_config(self, *_gpu_rules(self.gpus_per_trial))


# Options of `famba-sweep run` and `plan`, and the entry of the pool that each sets.
FLAGS = {
    f"--{re.sub('_(h|gib|s)$', '', field.name).replace('_', '-')}": field.name
    for field in fields(Pool)
    if "metavar" in field.metadata
}
_OF_GPUS = ("gpus_per_trial", "accelerator_type", "gpu_hours", "gpu_memory_gib")  # entries without meaning for a CPU
_POOL_KEYS = field_types(Pool)


def read_pool(values: Mapping[str, Any], validator: Validator) -> Pool | None:
    """Return the `pool` section of a grid; problems go to `validator`."""
    gpus = str if isinstance(values.get("gpus_per_trial"), str) else float  # Pool checks which text
    good = validator.mapping(values, "pool", _POOL_KEYS | {"gpus_per_trial": gpus})
    return validator.config(Pool, good, "pool")


def resolve_resources(
    resources: Resources, pool: Pool, flags: Mapping[str, Any], profile: str
) -> tuple[Resources, Pool]:
    """Return the resources of a profile's trials, and the pool with the entries that apply to them.

    Args:
        flags: entries of the pool that the command line sets.
        profile: its name, for messages.

    The grid's pool does not move a profile from the CPU to GPUs; the flag does. "pack" plans a whole GPU: how many
    trials share it is decided when their memory is known. Raises UserError for invalid flags, and for flags that only
    GPUs have if the trials train on the CPU.
    """
    try:
        pool = replace(pool, **flags)
    except ConfigError as error:
        words = {key: flag for flag, key in FLAGS.items()}
        raise UserError(
            Problem(words.get(problem.key, "pool"), "", problem.sentence) for problem in error.problems
        ) from None
    gpus: float = resources.gpus_per_trial
    if pool.gpus_per_trial is not None and (gpus or "gpus_per_trial" in flags):
        gpus = 1.0 if pool.gpus_per_trial == "pack" else pool.gpus_per_trial
    if pool.accelerator_type:
        pool = replace(pool, accelerator_type=spell_type(pool.accelerator_type))
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
