"""One training run, resumable: an iterator of epochs (Famba-V section 4)."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from famba_core.config import (
    AugmentConfig,
    ConfigError,
    DataConfig,
    FusionConfig,
    FusionSchedule,
    ModelConfig,
    TrainConfig,
)
from famba_core.cost.measure import mib, peak_tensor_bytes, tensors_of
from famba_core.cost.work import cost
from famba_core.data.datasets import load_dataset
from famba_core.device import choose_device, device_name, prepare, synchronize
from famba_core.fusion.schedule import resolve
from famba_core.models.registry import build_model
from famba_core.ops.registry import choose
from famba_core.training import checkpoint
from famba_core.training.evaluate import Evaluator
from famba_core.training.step import TrainStep, learning_rate

CHECKPOINT = "last.pt"
CHECKPOINT_FORMAT = 1  # changes with what a checkpoint holds


class NonFiniteLoss(RuntimeError):
    """The training loss became infinite or not a number."""


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """What one epoch measured. Times in seconds, accuracies on the whole test set in percent."""

    epoch: int  # from 1
    epochs: int
    loss: float  # mean over the epoch's steps
    lr: float  # of the epoch's last step
    top1_pct: float
    top5_pct: float
    top1_ema_pct: float | None
    top5_ema_pct: float | None
    train_time_s: float  # training steps only


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What the run as a whole measured."""

    parameters: int
    flops_per_image: float  # forward, 2 per multiply-add
    train_time_s: float  # all epochs' training steps, without evaluation and set-up
    step_time_ms: float  # median over epochs of their mean; the first, which warms up, is left out where it can be
    throughput_img_per_s: float
    peak_memory_mib: float
    peak_memory_source: Literal["cuda_allocator", "cpu_tensor_bytes"]
    device_name: str


class Trainer:
    """Trains one model. Iterating yields each epoch still to do, after its checkpoint is safe.

    Every random number comes from (seed, epoch), so a run that was interrupted and resumed gives, on the CPU with
    the same number of threads, bit for bit the numbers of one that was not.

    Args:
        model: its num_classes must be the data set's.
        threads: CPU threads to compute with; None leaves torch's choice.
        device: "cpu", "cuda", ...; None takes CUDA where there is one.
        backend: name of the registered backend that computes; "auto" takes the fastest that fits.
        checkpoint: folder for the state after each epoch; None keeps none.
        progress: wraps the batches of each epoch, as tqdm does.

    Raises ConfigError for what cannot be trained, before any work; from the iteration NonFiniteLoss, and OSError where
    the checkpoint cannot be written.
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
        progress: Callable[[Sequence[Tensor]], Iterable[Tensor]] = iter,
    ):
        self.device = choose_device(device)
        prepare(self.device, train.precision, threads)
        self.config = train
        self.augmentation = augment
        self.dataset = load_dataset(data, model.image_size, train.seed)
        if model.num_classes != self.dataset.num_classes:
            raise ConfigError(
                [("num_classes", f"{model.num_classes}, and {data.dataset} has {self.dataset.num_classes} classes")]
            )
        self.train_split = self.dataset.train.to(self.device)
        self.test_split = self.dataset.test.to(self.device)
        self.batch_size = min(train.batch_size, len(self.train_split.labels))
        self.steps_per_epoch = len(self.train_split.labels) // self.batch_size
        self.model_config, self.fusion, self.backend = model, resolve(fusion, model.token_grid), backend
        self.identity = _identity(model, self.fusion, data, augment, train)
        self.file = None if checkpoint is None else checkpoint / CHECKPOINT
        self.progress = progress
        self.history: tuple[EpochMetrics, ...] = ()
        self.peak_bytes = 0
        self.step = self._new_step()
        choose(backend, self.step.lr, state_size=model.sizes.state_size)  # refuses one that does not fit
        self.generator = torch.Generator(self.device)
        evaluator = partial(
            Evaluator, split=self.test_split, dataset=self.dataset, config=model, augmentation=augment,
            precision=train.precision,
        )  # fmt: skip
        self.evaluate = evaluator(self.step.model)
        self.evaluate_ema = None if self.step.ema is None else evaluator(self.step.ema)
        if checkpoint is not None:
            try:
                checkpoint.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError([("checkpoint", f"{checkpoint} cannot be a folder: {error.strerror}")]) from None
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
        """Tokens that each layer removes."""
        return self.fusion.schedule

    def result(self) -> TrainResult:
        """The run's figures, once every epoch is done."""
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

    def _new_step(self) -> TrainStep:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(self.config.seed, 0))
            model = build_model(self.model_config, self.fusion, self.backend).to(self.device)
        model.recompute = self.config.recompute
        return TrainStep(model, self.dataset, self.augmentation, self.config, self.config.epochs * self.steps_per_epoch)

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
            # the largest of all epochs: replayed steps allocate nothing
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
            top1_ema_pct=ema and ema.top1_pct,
            top5_ema_pct=ema and ema.top5_pct,
            train_time_s=train_time_s,
        )

    def _measure_peak(self) -> int:
        """Peak tensor bytes of the second step of a throwaway run: the first has not yet made the optimizer's state."""
        step = self._new_step()
        images, labels = self.train_split.images[: self.batch_size], self.train_split.labels[: self.batch_size]
        generator = torch.Generator().manual_seed(_seed(self.config.seed, 0))
        step(images, labels, 0.0, generator)
        step.optimizer.zero_grad(set_to_none=True)
        resident = [*tensors_of(step.state_dict()), images, labels]
        return peak_tensor_bytes(lambda: step(images, labels, 0.0, generator), resident)

    def _save(self) -> None:
        if self.file is None:
            return
        checkpoint.write(
            self.file,
            {
                "identity": self.identity,
                "history": [asdict(metrics) for metrics in self.history],
                "peak_bytes": self.peak_bytes,
                **self.step.state_dict(),
            },
        )

    def _resume(self) -> None:
        if self.file is None or (saved := checkpoint.read(self.file)) is None:
            return
        if not isinstance(saved, dict) or saved.get("identity") != self.identity:
            raise ConfigError([("checkpoint", f"{self.file} is of another run; remove it or choose another folder")])
        self.step.load_state_dict(saved)
        self.history = tuple(EpochMetrics(**metrics) for metrics in saved["history"])
        self.peak_bytes = saved["peak_bytes"]


def _identity(
    model: ModelConfig, fusion: FusionSchedule, data: DataConfig, augment: AugmentConfig, train: TrainConfig
) -> str:
    """Return what a checkpoint must agree in with the run that resumes from it."""
    # The fusion as the first version wrote it, so that its checkpoints still resume.
    fused = (
        "FusionConfig(strategy='none', start_layer=None, stop_layer=None, r=None, "
        f"order={fusion.order!r}, weighting={fusion.weighting!r}, schedule={fusion.schedule!r})"
    )
    parts = (CHECKPOINT_FORMAT, model, data.dataset, data.train_images, augment, train)
    before, *after = map(repr, parts)
    return f"({before}, {after[0]}, {fused}, {', '.join(after[1:])})"


def _seed(seed: int, epoch: int) -> int:
    """An independent 64-bit seed for each epoch; epoch 0 is the initialisation."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
