"""Reports epochs from the simulated surface, in place of the real trainer."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from famba_core.config import FusionSchedule, ModelConfig, TrainConfig
from famba_core.cost.work import cost
from simulated.surface import PAPER_EPOCHS, STEPS_PER_EPOCH, simulate
from sweep.executors.base import Finished, Job, Lost, Measured
from sweep.plan.model import Trial
from sweep.worker import job as real

if TYPE_CHECKING:
    from famba_core.training.metrics import EpochMetrics, TrainResult

CHECKPOINT = "last.pt"  # the same name as the real trainer's


class SimulatedTrainer:
    """A trainer whose top-1 rises to the surface's, resumed from a checkpoint if there is one.

    Times and memory are the surface's; the time is in proportion to the number of epochs.

    Args:
        pause_s: real duration of an epoch in seconds.
        noise_pct: standard deviation of the final top-1 over seeds, in points.
    """

    def __init__(
        self,
        *,
        model: ModelConfig,
        fusion: FusionSchedule,
        train: TrainConfig,
        checkpoint: Path | None = None,
        pause_s: float = 0.0,
        noise_pct: float = 0.0,
        **_: Any,  # the real trainer's other arguments, which change nothing here
    ):
        self.model, self.schedule, self.train, self.pause_s = model, fusion.schedule, train, pause_s
        self.end = simulate(model.backbone, fusion.schedule, num_patches=model.num_patches)
        named = repr((fusion.schedule, fusion.order, fusion.weighting, train.seed))
        noise = random.Random(hashlib.sha256(named.encode()).digest()).gauss(0, 1)
        self.top1_pct = min(100.0, max(0.0, self.end.top1_pct + noise_pct * noise))
        self.file = None if checkpoint is None else checkpoint / CHECKPOINT
        done = int(self.file.read_text()) if self.file and self.file.exists() else 0
        self.history = tuple(self._metrics(epoch) for epoch in range(1, done + 1))

    def __iter__(self) -> Iterator[EpochMetrics]:
        while len(self.history) < self.train.epochs:
            time.sleep(self.pause_s)
            self.history += (self._metrics(len(self.history) + 1),)
            if self.file:
                temporary = self.file.with_suffix(".tmp")
                temporary.write_text(str(len(self.history)))
                temporary.replace(self.file)
            yield self.history[-1]

    def result(self) -> TrainResult:
        from famba_core.training.metrics import TrainResult

        counted = cost(self.model, self.schedule)
        seconds = self.end.train_time_s * self.train.epochs / PAPER_EPOCHS
        step_s = self.end.train_time_s / (PAPER_EPOCHS * STEPS_PER_EPOCH)
        return TrainResult(
            parameters=counted.parameters,
            flops_per_image=counted.flops_per_image,
            train_time_s=seconds,
            step_time_ms=1e3 * step_s,
            throughput_img_per_s=self.train.batch_size / step_s,
            peak_memory_mib=self.end.peak_memory_mib,
            peak_memory_source="cuda_allocator",
            device_name="simulated",
        )

    def _metrics(self, epoch: int) -> EpochMetrics:
        from famba_core.training.metrics import EpochMetrics

        # Most of the rise is in the first third. All trials rise alike, so that their ranks stay.
        risen = (1 - np.exp(-3 * epoch / self.train.epochs)) / (1 - np.exp(-3))
        top1 = float(self.top1_pct * risen)
        return EpochMetrics(
            epoch=epoch,
            epochs=self.train.epochs,
            loss=5 * (1 - top1 / 100),
            lr=self.train.lr,
            top1_pct=top1,
            top5_pct=100 - (100 - top1) ** 2 / 100,
            top1_ema_pct=None,
            top5_ema_pct=None,
            train_time_s=self.end.train_time_s / PAPER_EPOCHS,
        )


def new_trainer(trial: Trial, checkpoint: Path | None) -> Any:
    """Return the trial's simulated trainer, as `sweep.worker.trial.new_trainer` returns the real one."""
    return SimulatedTrainer(model=trial.model, fusion=trial.fusion, train=trial.train, checkpoint=checkpoint)


def run_job(job: Job, folder: Path) -> Generator[EpochMetrics | Measured, None, Finished | Lost]:
    """Run a job as `sweep.worker.job.run_job` does, with the simulated trainer; nothing is measured."""
    return (yield from real.run_job(job, folder, new_trainer))
