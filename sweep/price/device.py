"""The device that a plan's trials get, as far as this machine can tell: its name, memory and number."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from famba_core.cost.data_sheets import is_of_type, known_memory_gib
from sweep.plan.model import Plan, Trial


@dataclass(frozen=True, kw_only=True)
class PoolDevice:
    """One GPU, or the threads of a CPU that a trial gets."""

    gpu: bool
    name: str | None  # as results name it, or Ray's name of its type; None if nobody knows
    memory_gib: float | None  # None if nobody knows
    slots: int | None  # trials that find room at a time; None if nobody knows

    @property
    def words(self) -> str:
        """What hours are counted of."""
        return (self.name or "A100") if self.gpu else "CPU thread"

    def is_named(self, device_name: str) -> bool:
        """Whether a result of `device_name` was measured on such a device."""
        if self.name is None:
            return False
        return device_name == self.name or (self.gpu and is_of_type(device_name, self.name))

    def could_be(self, device_name: str) -> bool:
        """The same, as far as anybody knows."""
        return self.name is None or self.is_named(device_name)


def pool_device(plan: Plan, *, address: str | None) -> PoolDevice:
    """The device of the plan's trials on this machine, or in the Ray cluster at `address`, which is not asked.

    A GPU of a type that the pool names is taken to have the memory of the type's data sheet.
    """
    trial, pool = plan.trials[0], plan.pool
    if not trial.gpus_per_trial:
        here = address is None
        slots = max(1, (os.cpu_count() or 1) // trial.cpus_per_trial) if here else None
        return PoolDevice(gpu=False, name=_cpu_name(trial), memory_gib=_memory_gib() if here else None, slots=slots)
    names, memory = ([], []) if address else _gpus()
    name = pool.accelerator_type or next(iter(names), None)
    gib = pool.gpu_memory_gib
    if gib is None:
        gib = known_memory_gib(pool.accelerator_type) if pool.accelerator_type else min(memory, default=None)
    slots = len(names) * int(1 / trial.gpus_per_trial + 1e-6) or None
    return PoolDevice(gpu=True, name=name, memory_gib=gib, slots=slots)


def _cpu_name(trial: Trial) -> str:
    import torch

    from famba_core.device import device_name

    model = device_name(torch.device("cpu")).rsplit(" (", 1)[0]  # the threads are this process's
    return f"{model} ({trial.cpus_per_trial} thread{'' if trial.cpus_per_trial == 1 else 's'})"


def _gpus() -> tuple[list[str], list[float]]:
    """Names of this machine's GPUs, and the GiB of each."""
    import torch

    if not torch.cuda.is_available():
        return [], []
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [gpu.name for gpu in found], [gpu.total_memory / 2**30 for gpu in found]


def _memory_gib() -> float:
    """Of this machine, or of the container that this process is in."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found / 2**30
