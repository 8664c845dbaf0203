"""One training step: augmentation, forward, backward, optimizer, moving average. It never waits for the device."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from famba_core.config import AugmentConfig, TrainConfig
from famba_core.cost.measure import tensors_of
from famba_core.data.augment import augment
from famba_core.data.image_dataset import ImageDataset
from famba_core.device import autocast
from famba_core.models.classifier import Classifier
from famba_core.training.cuda_graph import GraphedFunction, wrap_in_graph

BETAS = (0.9, 0.999)
# The paper's decay of 0.99996 per step averages over this share of its run of 300 epochs with 390 steps each.
EMA_SPAN = 1 / (1 - 0.99996) / (300 * 390)


class TrainStep:
    """A model with all state that a training step changes: weights, optimizer, moving average.

    On a CUDA device, steps after the first few replay a graph, with the same results as without one.
    """

    def __init__(
        self, model: Classifier, dataset: ImageDataset, augmentation: AugmentConfig, config: TrainConfig, steps: int
    ):
        """steps: length of the whole run, which scales the moving average."""
        self.model = model
        self.dataset = dataset
        self.augmentation = augmentation
        self.config = config
        self.device = model.head.weight.device
        self.lr = torch.full((), config.warmup_lr, device=self.device)  # a tensor, because a graph reads it from memory
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, config.weight_decay),
            lr=config.warmup_lr,
            betas=BETAS,
            fused=True,
            capturable=self.device.type == "cuda",
        )
        # silences a warning: the first steps are not captured
        self.optimizer._warned_capturable_if_run_uncaptured = True
        self.ema = copy.deepcopy(model).requires_grad_(False) if config.ema else None
        decay = config.ema_decay if config.ema_decay is not None else max(0.0, 1 - 1 / (EMA_SPAN * steps))
        self.average = get_ema_multi_avg_fn(decay)
        self._generator: torch.Generator | None = None
        self._run: GraphedFunction | None = None
        self._share_lr()

    def __call__(self, images: Tensor, labels: Tensor, lr: float, generator: torch.Generator) -> Tensor:
        """Train on one batch.

        Args:
            images: uint8 [B, 3, H, W], the same shape in every step.
            labels: int64 [B].
            lr: learning rate of this step.
            generator: on the images' device. Reseed it instead of passing another, which would need a new graph.

        Returns the loss, a scalar on the device.
        """
        if self._run is None or generator is not self._generator:
            self._generator = generator
            # a weak reference, because in a cycle weights and graph would wait for the garbage collector
            train = partial(TrainStep._train, cast(TrainStep, weakref.proxy(self)))
            self._run = wrap_in_graph(train, self.device, name="the training step", generator=generator)
        self.lr.fill_(lr)
        return self._run(images, labels)

    def _train(self, images: Tensor, labels: Tensor) -> Tensor:
        """Run the step itself, on tensors only."""
        assert self._generator is not None
        model = self.model
        # With None, backward allocates the gradients inside the graph, so each replay overwrites them.
        self.optimizer.zero_grad(set_to_none=True)
        inputs, targets = augment(
            images,
            labels,
            config=self.augmentation,
            image_size=model.config.image_size,
            num_classes=model.config.num_classes,
            label_smoothing=self.config.label_smoothing,
            mean=self.dataset.mean,
            std=self.dataset.std,
            generator=self._generator,
        )
        with autocast(self.device, self.config.precision):
            logits = model(inputs)
        loss = F.cross_entropy(logits.float(), targets)
        loss.backward()
        self.optimizer.step()
        if self.ema is not None:
            # not AveragedModel: it would copy its step counter to the device, and wait, in every step
            self.average(list(self.ema.parameters()), list(model.parameters()), None)
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimizer and moving average, as a checkpoint stores them."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a result of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self._run = None  # a graph would still use the optimizer's old tensors
        self._share_lr()

    def resident_tensors(self) -> list[Tensor]:
        """Drop the gradients, and return the tensors that then exist between two steps."""
        self.optimizer.zero_grad(set_to_none=True)
        return list(tensors_of(self.state_dict()))

    def _share_lr(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Group the parameters: biases, 1-D tensors, pos_embed and cls_token have no weight decay; all others have."""
    plain: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (plain if parameter.ndim <= 1 or name in ("pos_embed", "cls_token") else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def learning_rate(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Return the rate of a step, counted from 0: linear warm-up, then a cosine from lr to min_lr at the last step."""
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.warmup_lr + (config.lr - config.warmup_lr) * step / warmup
    progress = (step - warmup) / max(1, config.epochs * steps_per_epoch - 1 - warmup)
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * progress)) / 2
