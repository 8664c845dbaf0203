"""Small runs through Ray for real, and what is to be seen of their processes."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from fake_training import fake_trial, plan_of

from famba_core.config import FusionSchedule, ModelConfig
from sweep.executors.base import Event, Measured, Progress
from sweep.plan.model import Plan

LINES = ("real-seed", "2 of 2 trials to train", "measuring ")


def real_plan(epochs: int) -> Plan:
    """Two trials of five tokens on a few digits."""
    return plan_of(
        *(
            replace(
                fake_trial(seed, epochs=epochs),
                trial_id=f"real-seed{seed}",
                model=ModelConfig(backbone="vim_nano", image_size=8, num_classes=10),
                fusion=FusionSchedule(schedule=(0,) * 22 + (1, 1)),
            )
            for seed in (0, 1)
        )
    )


def ended_epoch(event: Event) -> bool:
    return isinstance(event, Progress) and not isinstance(event.metrics, Measured)


def descendants(pid: int | None = None) -> list:
    import ray  # noqa: F401 - brings psutil along
    import psutil  # isort: skip

    return psutil.Process(pid).children(recursive=True)


def worker_processes(kind: str, pid: int | None = None) -> list[int]:
    """The ids of processes below this one or `pid`: Ray's "workers", the "servers" that fork, or what "trains"."""
    import ray  # noqa: F401 - brings psutil along
    import psutil  # isort: skip

    found: dict[str, list[int]] = {"workers": [], "servers": [], "trains": []}
    for process in descendants(pid):  # parents before their children
        with contextlib.suppress(psutil.Error):  # it has just ended
            command = " ".join(process.cmdline())
            if "ImplicitFunc" in process.name() or "ImplicitFunc" in command:
                found["workers"].append(process.pid)
            elif "fork_server import serve" in command:
                found["trains" if process.ppid() in found["servers"] else "servers"].append(process.pid)
    return found[kind]
