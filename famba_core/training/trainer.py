"""A resumable training run as an iterator of epochs (Famba-V section 4)."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from famba_core.config import (
    AugmentConfig,
    ConfigError,
    DataConfig,
    FusionConfig,
    FusionSchedule,
    ModelConfig,
    TrainConfig,
)
from famba_core.cost.measure import mib, peak_tensor_bytes
from famba_core.cost.work import cost
from famba_core.data.datasets import load_dataset
from famba_core.device import choose_device, device_name, prepare, synchronize
from famba_core.fusion.schedule import resolve
from famba_core.models.registry import build_model
from famba_core.ops.registry import choose
from famba_core.training import checkpoint
from famba_core.training.evaluate import Evaluator, Progress
from famba_core.training.metrics import EpochMetrics, TrainResult
from famba_core.training.run_settings import describe_differences, run_settings
from famba_core.training.step import TrainStep, learning_rate

CHECKPOINT = "last.pt"


class NonFiniteLoss(RuntimeError):
    """Training loss that is infinite or not a number."""


class Trainer:
    """Training run of one model. Iterating trains the remaining epochs; each is yielded once its checkpoint is stored.

    Every random number is derived from (seed, epoch). So an interrupted and resumed run gives the same numbers, bit for
    bit, as an uninterrupted one, on the CPU with the same number of threads.

    Args:
        model: its num_classes must be that of the data set.
        threads: CPU threads; None leaves the number to torch.
        device: "cpu", "cuda", ...; None takes CUDA if available.
        backend: name of a registered backend; "auto" takes the fastest that fits.
        checkpoint: folder for the state after each epoch; None stores nothing.
        progress, evaluation_progress: wrap the batches of each epoch, and of each evaluation, as tqdm does.

    Raises ConfigError for a run that cannot be trained, before any work. The iteration raises NonFiniteLoss, and
    OSError if the checkpoint cannot be written.
    """

    def __init__(
        self,
        *,
        model: ModelConfig,
        fusion: FusionConfig | FusionSchedule,
        data: DataConfig,
        augment: AugmentConfig,
        train: TrainConfig,
        threads: int | None = None,
        device: str | None = None,
        backend: str = "auto",
        checkpoint: Path | None = None,
        progress: Progress = iter,
        evaluation_progress: Progress = iter,
    ):
        self.device = choose_device(device)
        prepare(self.device, train.precision, threads)
        self.config, self.augmentation, self.model_config, self.backend = train, augment, model, backend
        self._load_data(data)
        self.fusion = resolve(fusion, model.token_grid)
        self.settings = run_settings(model, self.fusion, data, augment, train)
        self.progress, self.evaluation_progress = progress, evaluation_progress
        self.history: tuple[EpochMetrics, ...] = ()
        self.peak_bytes = 0
        self.step = self._new_step()
        choose(backend, self.step.lr, state_size=model.sizes.state_size)  # raises for a backend that does not fit
        self.generator = torch.Generator(self.device)
        self.evaluate = self._evaluator(self.step.model)
        self.evaluate_ema = None if self.step.ema is None else self._evaluator(self.step.ema)
        self.file = None if checkpoint is None else checkpoint / CHECKPOINT
        self._resume()

    def __iter__(self) -> Iterator[EpochMetrics]:
        if self.device.type == "cpu" and not self.peak_bytes:
            self.peak_bytes = self._measure_peak()
        while len(self.history) < self.config.epochs:
            metrics = self._epoch(len(self.history) + 1)
            self.history += (metrics,)
            self._save()
            yield metrics

    @property
    def schedule(self) -> tuple[int, ...]:
        """Tokens removed in each layer."""
        return self.fusion.schedule

    def result(self) -> TrainResult:
        """Return the measurements of the run, after its last epoch."""
        price = cost(self.model_config, self.schedule)
        warm = [m.train_time_s / self.steps_per_epoch for m in self.history[1:] or self.history]
        step_time = statistics.median(warm)
        return TrainResult(
            parameters=sum(p.numel() for p in self.step.model.parameters()),
            flops_per_image=price.flops_per_image,
            train_time_s=sum(m.train_time_s for m in self.history),
            step_time_ms=1e3 * step_time,
            throughput_img_per_s=self.batch_size / step_time,
            peak_memory_mib=mib(self.peak_bytes),
            peak_memory_source="cuda_allocator" if self.device.type == "cuda" else "cpu_tensor_bytes",
            device_name=device_name(self.device),
        )

    def _load_data(self, data: DataConfig) -> None:
        model, seed = self.model_config, self.config.seed
        self.dataset = load_dataset(data, model.image_size, seed)
        if model.num_classes != self.dataset.num_classes:
            sentence = f"is {model.num_classes}, but {data.dataset} has {self.dataset.num_classes} classes"
            raise ConfigError.of("num_classes", sentence)
        self.train_split, self.test_split = self.dataset.train.to(self.device), self.dataset.test.to(self.device)
        images = len(self.train_split.labels)
        self.batch_size = min(self.config.batch_size, images)
        self.steps_per_epoch = images // self.batch_size

    def _new_step(self) -> TrainStep:
        """Return a step of a model with its initial weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(self.config.seed, 0))
            model = build_model(self.model_config, self.fusion, self.backend).to(self.device)
        model.recompute = self.config.recompute
        return TrainStep(model, self.dataset, self.augmentation, self.config, self.config.epochs * self.steps_per_epoch)

    def _evaluator(self, model: nn.Module) -> Evaluator:
        return Evaluator(
            model, self.test_split, self.dataset, config=self.model_config, augmentation=self.augmentation,
            precision=self.config.precision, progress=self.evaluation_progress,
        )  # fmt: skip

    def _epoch(self, epoch: int) -> EpochMetrics:
        seed = _seed(self.config.seed, epoch)
        self.generator.manual_seed(seed)
        order = torch.randperm(len(self.train_split.labels), generator=torch.Generator().manual_seed(seed))
        batches = order.to(self.device).split(self.batch_size)[: self.steps_per_epoch]
        loss_sum = torch.zeros((), device=self.device, dtype=torch.float64)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.step.model.train()
        synchronize(self.device)
        start = time.perf_counter()
        for i, batch in enumerate(self.progress(batches)):
            lr = learning_rate((epoch - 1) * self.steps_per_epoch + i, self.steps_per_epoch, self.config)
            loss_sum += self.step(self.train_split.images[batch], self.train_split.labels[batch], lr, self.generator)
        synchronize(self.device)
        train_time_s = time.perf_counter() - start
        if self.device.type == "cuda":
            # the largest of all epochs, because replayed steps allocate nothing
            self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated(self.device))
        loss = loss_sum.item() / len(batches)
        if not math.isfinite(loss):
            raise NonFiniteLoss(f"the training loss is {loss} in epoch {epoch} of {self.config.epochs}")
        raw = self.evaluate()
        ema = None if self.evaluate_ema is None else self.evaluate_ema()
        return EpochMetrics(
            epoch=epoch,
            epochs=self.config.epochs,
            loss=loss,
            lr=lr,
            top1_pct=raw.top1_pct,
            top5_pct=raw.top5_pct,
            top1_ema_pct=None if ema is None else ema.top1_pct,
            top5_ema_pct=None if ema is None else ema.top5_pct,
            train_time_s=train_time_s,
        )

    def _measure_peak(self) -> int:
        """Measure the second step of a throwaway model: in the first, the optimizer has no state yet."""
        step = self._new_step()
        images, labels = self.train_split.images[: self.batch_size], self.train_split.labels[: self.batch_size]
        generator = torch.Generator().manual_seed(_seed(self.config.seed, 0))
        step(images, labels, 0.0, generator)
        resident = [*step.resident_tensors(), images, labels]
        return peak_tensor_bytes(lambda: step(images, labels, 0.0, generator), resident)

    def _save(self) -> None:
        if self.file is None:
            return
        checkpoint.write(
            self.file,
            {
                "settings": self.settings,
                "history": [asdict(metrics) for metrics in self.history],
                "peak_bytes": self.peak_bytes,
                **self.step.state_dict(),
            },
        )

    def _resume(self) -> None:
        if self.file is None:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            sentence = f"{self.file.parent} cannot be used as a folder: {error.strerror}"
            raise ConfigError.of("checkpoint", sentence) from None
        if (saved := checkpoint.read(self.file)) is None:
            return
        if (differences := describe_differences(saved, self.settings)) != "":
            sentence = f"{self.file} belongs to another run"
            if differences is not None:
                sentence += f", with {differences}"
            raise ConfigError.of("checkpoint", f"{sentence}; remove it or choose another folder")
        self.step.load_state_dict(saved)
        self.history = tuple(EpochMetrics(**metrics) for metrics in saved["history"])
        self.peak_bytes = saved["peak_bytes"]


def _seed(seed: int, epoch: int) -> int:
    """Return an independent 64-bit seed for each epoch; epoch 0 is the initialisation."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
