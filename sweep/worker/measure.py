"""Isolated measurements: the training step of each distinct configuration, alone on a device, one after another."""

from __future__ import annotations

import datetime as dt
import gc
import logging
from collections.abc import Generator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.executors.base import Measured
from sweep.plan.identity import measure_id
from sweep.plan.model import Trial
from sweep.price.training_time import LEAST_TIMED_STEPS, MEASURE_BUDGET_S, WARMUP_STEPS
from sweep.schema import MeasureRow
from sweep.store.study import write_measurement
from sweep.worker.errors import explain
from sweep.worker.rows import code_columns, trial_columns
from sweep.worker.trial import new_trainer

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)


def measure_all(trials: Sequence[Trial], folder: Path) -> Generator[Measured, None, None]:
    """Measure the trials' steps in this order and store each in the study `folder`. Yields each as it ends.

    A measurement that fails is not stored, and the others go on.
    """
    for trial in trials:
        name, error = measure_id(trial), None
        _log.info("%s: measuring", name)
        try:
            write_measurement(folder, measure(trial))
        except Exception as exception:
            error = explain(exception, trial, folder, f"{name}.measuring")
        yield Measured(measure_id=name, error=error)


def measure(trial: Trial) -> MeasureRow:
    """Measure time and memory of the trial's training step, in this process."""
    import torch

    from famba_core.cost.measure import measure_step, mib, peak_tensor_bytes
    from famba_core.device import device_name

    code = code_columns()
    trainer = new_trainer(trial, checkpoint=None)
    device, training = trainer.device, trainer.step
    on_gpu = device.type == "cuda"
    if on_gpu:
        gc.collect()  # what earlier measurements left behind must not count here
        torch.cuda.reset_peak_memory_stats(device)
    images, labels = trainer.train_split.images, trainer.train_split.labels
    batch = torch.arange(trainer.batch_size, device=device)
    generator = torch.Generator(device).manual_seed(trial.train.seed)

    def step() -> torch.Tensor:
        return training(images[batch], labels[batch], 0.0, generator)

    time = measure_step(
        step,
        device=device,
        warmup=WARMUP_STEPS[device.type],
        min_steps=LEAST_TIMED_STEPS,
        budget_s=MEASURE_BUDGET_S,
    )
    if on_gpu:
        peak_bytes = torch.cuda.max_memory_allocated(device)
    else:
        peak_bytes = peak_tensor_bytes(step, training.resident_tensors())
    planned = trial_columns(trial)
    return MeasureRow(
        measure_id=measure_id(trial),
        **{field.name: planned[field.name] for field in fields(MeasureRow) if field.name in planned},
        timed_steps=time.n,
        step_time_ms=time.median_ms,
        step_time_q25_ms=time.q25_ms,
        step_time_q75_ms=time.q75_ms,
        steps_per_epoch=trainer.steps_per_epoch,
        throughput_img_per_s=1e3 * trainer.batch_size / time.median_ms,
        peak_memory_mib=mib(peak_bytes),
        peak_memory_source="cuda_allocator" if on_gpu else "cpu_tensor_bytes",
        device_name=device_name(device),
        torch_version=torch.__version__,
        **code,
        finished_at=dt.datetime.now(dt.UTC),
    )
