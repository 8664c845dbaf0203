"""Small runs through Ray for real, and what is to be seen of their processes."""

from __future__ import annotations

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


def descendants() -> list:
    import ray  # noqa: F401 - brings psutil along
    import psutil  # isort: skip

    return psutil.Process().children(recursive=True)
