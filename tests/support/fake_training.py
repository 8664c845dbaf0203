"""Trials that train in no time: the trainer's interface without a model, with faults to order.

As a script, `fake_training.py FOLDER` runs a plan of four slow trials in this process, for tests that send it signals;
with `measuring` after the folder, a plan of four slow measurements.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import famba_core.training.trainer
import sweep.worker.measure
from famba_core.config import AugmentConfig, DataConfig, FusionConfig, FusionSchedule, ModelConfig, TrainConfig
from famba_core.training.metrics import EpochMetrics, TrainResult
from famba_core.training.trainer import NonFiniteLoss
from sweep.executors.base import ResourceRequest, TrainJob
from sweep.executors.local import LocalExecutor
from sweep.plan.identity import measure_id
from sweep.plan.model import Case, Plan, Trial
from sweep.run.listeners.screen import Screen
from sweep.run.runner import RunSummary, run_plan
from sweep.schema import MeasureRow
from sweep.worker.job import run_job

SCHEDULE = (0,) * 12 + (1,) * 12
# seeds whose trials fail after their first epoch
DIVERGES, RAISES, HANGS, OUT_OF_MEMORY, ALWAYS_OUT_OF_MEMORY = 101, 102, 201, 202, 203
TOO_MANY_BYTES = 2**46  # for any machine
FAULTS = {  # seed -> the error that the second epoch raises
    DIVERGES: NonFiniteLoss("the training loss is nan in epoch 2 of 3"),
    RAISES: ZeroDivisionError("division by zero\n\nwith more to say"),
    103: MemoryError(),
    104: RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
}


class FakeTrainer:
    """Counts epochs in its checkpoint; writes each start as "trial_id first_epoch" into the study's starts.txt."""

    epoch_s = 0.0

    def __init__(self, *, fusion: FusionSchedule, train: TrainConfig, checkpoint: Path, **rest: Any) -> None:
        self.arguments = {"fusion": fusion, "train": train, **rest}
        self.train = train
        self.file = checkpoint / "last.pt"
        done = int(self.file.read_text()) if self.file.exists() else 0
        self.history = tuple(epoch_metrics(epoch, train.epochs) for epoch in range(1, done + 1))
        with open(checkpoint.parents[1] / "starts.txt", "a") as starts:
            starts.write(f"{checkpoint.name} {done + 1}\n")

    def __iter__(self) -> Iterator[EpochMetrics]:
        for epoch in range(len(self.history) + 1, self.train.epochs + 1):
            time.sleep(self.epoch_s)
            if epoch == 2 and self.train.seed in FAULTS:
                raise FAULTS[self.train.seed]
            self.history += (epoch_metrics(epoch, self.train.epochs),)
            temporary = self.file.with_suffix(".tmp")  # as the real one, for tests that stop it at any moment
            temporary.write_text(str(epoch))
            temporary.replace(self.file)
            yield self.history[-1]
            self.fault()

    def fault(self) -> None:
        """Hang, or allocate more memory than any machine has, if the seed says so."""
        seed, marker = self.train.seed, self.file.with_name("was-here")
        if seed == HANGS:
            os.kill(os.getpid(), signal.SIGSTOP)  # no Python code runs any more
        if seed == ALWAYS_OUT_OF_MEMORY or (seed == OUT_OF_MEMORY and not marker.exists()):
            marker.touch()
            torch.empty(TOO_MANY_BYTES, dtype=torch.uint8)

    def result(self) -> TrainResult:
        return TrainResult(
            parameters=7,
            flops_per_image=3.0,
            train_time_s=0.5,
            step_time_ms=10.0,
            throughput_img_per_s=100.0,
            peak_memory_mib=1.5,
            peak_memory_source="cpu_tensor_bytes",
            device_name="fake",
        )


def fake_measure(log: Path, *, pause_s: float = 0.0) -> Callable[[Trial], MeasureRow]:
    """In place of `measure.measure`: a step of 2 ms per image of the batch, 4 steps an epoch; 13 images are too many.

    Each call writes "measuring measure_id" into `log` before it begins.
    """

    def measure(trial: Trial) -> MeasureRow:
        with open(log, "a") as lines:
            lines.write(f"measuring {measure_id(trial)}\n")
        time.sleep(pause_s)
        batch = trial.train.batch_size
        if batch == 13:
            raise MemoryError
        return MeasureRow(
            study=trial.study,
            profile=trial.profile,
            measure_id=measure_id(trial),
            backbone=trial.model.backbone,
            schedule=trial.fusion.schedule,
            order=trial.fusion.order,
            weighting=trial.fusion.weighting,
            dataset=trial.data.dataset,
            image_size=trial.model.image_size,
            patch_size=trial.model.patch,
            batch_size=batch,
            precision=trial.train.precision,
            cpus_per_trial=trial.cpus_per_trial,
            gpus_per_trial=trial.gpus_per_trial,
            timed_steps=5,
            step_time_ms=2.0 * batch,
            step_time_q25_ms=1.0 * batch,
            step_time_q75_ms=3.0 * batch,
            steps_per_epoch=4,
            throughput_img_per_s=500.0,
            peak_memory_mib=100.0 + batch,
            peak_memory_source="cpu_tensor_bytes",
            device_name="fake",
            torch_version="2.13.0",
            finished_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        )

    return measure


def with_batch(trial: Trial, batch_size: int) -> Trial:
    """The same trial with a training step of its own."""
    return replace(
        trial,
        trial_id=f"{trial.trial_id}-batch{batch_size}",
        train=replace(trial.train, batch_size=batch_size),
    )


def epoch_metrics(epoch: int, epochs: int) -> EpochMetrics:
    """Top-1 of 10, 30, 20 % in three epochs: the best is neither the first nor the last."""
    top1 = (10.0, 30.0, 20.0)[(epoch - 1) % 3]
    return EpochMetrics(
        epoch=epoch,
        epochs=epochs,
        loss=2.0 / epoch,
        lr=1e-3,
        top1_pct=top1,
        top5_pct=60.0,
        top1_ema_pct=None,
        top5_ema_pct=None,
        train_time_s=0.25,
    )


def fake_trial(seed: int, *, epochs: int = 3, cpus: int = 1, gpus: float = 0) -> Trial:
    return Trial(
        trial_id=f"fake-seed{seed}",
        study="study",
        profile="laptop",
        model=ModelConfig(backbone="vim_nano", image_size=32, num_classes=10),
        fusion=FusionSchedule(schedule=SCHEDULE),
        data=DataConfig(dataset="digits", train_images=64),
        augment=AugmentConfig(),
        train=TrainConfig(epochs=epochs, warmup_epochs=0, batch_size=32, seed=seed),
        cpus_per_trial=cpus,
        gpus_per_trial=gpus,
    )


LABELS = FusionConfig(strategy="upper", start_layer=13, r=1)  # of SCHEDULE


def job_of(trial: Trial, attempt: int = 1, labels: FusionConfig = LABELS, suggestion: int | None = None) -> TrainJob:
    resources = ResourceRequest.of_trial(trial)
    return TrainJob(trial=trial, attempt=attempt, labels=labels, suggestion=suggestion, resources=resources)


def resources_of(*trials: Trial) -> ResourceRequest:
    return ResourceRequest.largest(map(ResourceRequest.of_trial, trials))


def plan_of(*trials: Trial) -> Plan:
    cases = [
        Case(
            backbone=trial.model.backbone,
            seed=trial.train.seed,
            baseline=False,
            trial_id=trial.trial_id,
            **vars(LABELS),
        )
        for trial in trials
    ]
    return Plan(
        study="study",
        profile="laptop",
        paper_table=None,
        objectives={"top1_best_pct": "max"},
        trials=trials,
        cases=tuple(cases),
    )


def screen_of(plan: Plan) -> Screen:
    return Screen({trial.trial_id: 1.0 for trial in plan.trials})


def run_in_process(plan: Plan, folder: Path, **options: Any) -> RunSummary:
    return run_plan(plan, folder, partial(LocalExecutor, run=run_job), listeners=[screen_of(plan)], **options)


def starts(folder: Path) -> list[str]:
    return (folder / "starts.txt").read_text().splitlines()


if __name__ == "__main__":
    folder, measuring = Path(sys.argv[1]), "measuring" in sys.argv
    famba_core.training.trainer.Trainer = FakeTrainer  # type: ignore[assignment, misc]
    FakeTrainer.epoch_s = 0.0 if measuring else 0.3
    sweep.worker.measure.measure = fake_measure(folder / "measured.txt", pause_s=0.5 if measuring else 0.0)
    trials = [fake_trial(seed) for seed in range(4)]
    if measuring:
        trials = [with_batch(trial, 16 + trial.train.seed) for trial in trials]
    sys.exit(run_in_process(plan_of(*trials), folder).exit_code)
