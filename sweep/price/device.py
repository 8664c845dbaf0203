"""The device that a plan's trials get, as far as this machine can tell: its name, memory and number."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from famba_core.cost.data_sheets import is_of_type, known_memory_gib
from sweep.plan.model import Plan, Trial
from sweep.text import plural


@dataclass(frozen=True, kw_only=True)
class PoolDevice:
    """One GPU, or the CPU threads of one trial."""

    gpu: bool
    name: str | None  # as in stored rows, or Ray's name of the GPU type; None if unknown
    memory_gib: float | None  # None if unknown
    count: int | None  # of such devices; None if unknown

    @property
    def has_data_sheet(self) -> bool:
        """True if times on it can be predicted without a stored row; other GPUs count as an A100."""
        return not self.gpu or (self.name is not None and known_memory_gib(self.name) is not None)

    def is_named(self, device_name: str) -> bool:
        """True if a row with this `device_name` was measured on such a device."""
        if self.name is None:
            return False
        return device_name == self.name or (self.gpu and is_of_type(device_name, self.name))

    def could_be(self, device_name: str) -> bool:
        """As is_named, but True if the device isn't known."""
        return self.name is None or self.is_named(device_name)


def find_pool_device(plan: Plan, *, address: str | None) -> PoolDevice:
    """Return the device of the plan's trials on this machine, or in the Ray cluster at `address`.

    The cluster is not contacted. A GPU of a type that the pool names is assumed to have the memory of its data sheet.
    """
    trial, pool = plan.trials[0], plan.pool
    if not trial.gpus_per_trial:
        name = _cpu_name(trial)
        if address is not None:
            return PoolDevice(gpu=False, name=name, memory_gib=None, count=None)
        count = max(1, (os.cpu_count() or 1) // trial.cpus_per_trial)
        return PoolDevice(gpu=False, name=name, memory_gib=_memory_gib(), count=count)
    gpus = [] if address else _local_gpus()
    gib = pool.gpu_memory_gib
    if gib is None:
        smallest = min((memory for _, memory in gpus), default=None)
        gib = known_memory_gib(pool.accelerator_type) if pool.accelerator_type else smallest
    return PoolDevice(
        gpu=True,
        name=pool.accelerator_type or (gpus[0][0] if gpus else None),
        memory_gib=gib,
        count=len(gpus) or None,
    )


def trials_per_gpu(gpus_per_trial: float) -> int:
    """Return how many trials share a GPU; 1 on a CPU."""
    return int(1 / gpus_per_trial + 1e-6) if gpus_per_trial else 1


def _cpu_name(trial: Trial) -> str:
    """Return the CPU's name as rows of this trial would hold it."""
    import torch

    from famba_core.device import device_name

    model = device_name(torch.device("cpu")).rsplit(" (", 1)[0]  # without the threads, which are this process's
    return f"{model} ({plural(trial.cpus_per_trial, 'thread')})"


def _local_gpus() -> list[tuple[str, float]]:
    """Return name and memory (GiB) of each GPU of this machine."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [(gpu.name, gpu.total_memory / 2**30) for gpu in found]


def _memory_gib() -> float:
    """Return the memory of this machine, or of the container that this process is in."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # "max" if there is no limit
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found / 2**30
