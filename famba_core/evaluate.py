"""Accuracy on a whole split."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from famba_core.config import AugmentConfig, ModelConfig, Precision
from famba_core.data.augment import evaluation_view
from famba_core.data.datasets import ImageDataset, Split
from famba_core.device import autocast

BATCH_SIZE = 256


class Accuracy(NamedTuple):
    top1_pct: float
    top5_pct: float


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    split: Split,
    dataset: ImageDataset,
    *,
    config: ModelConfig,
    augmentation: AugmentConfig,
    precision: Precision = "float32",
) -> Accuracy:
    """Top-1 and top-5 accuracy in percent of `model` on `split`, on the device of its images."""
    training = model.training
    model.eval()
    correct = torch.zeros(2, device=split.images.device)
    for images, labels in zip(split.images.split(BATCH_SIZE), split.labels.split(BATCH_SIZE), strict=True):
        inputs = evaluation_view(
            images, config=augmentation, image_size=config.image_size, mean=dataset.mean, std=dataset.std
        )
        with autocast(inputs.device, precision):
            logits = model(inputs)
        correct += _hits(logits.float(), labels)
    model.train(training)
    top1, top5 = (100 * correct / len(split.labels)).tolist()
    return Accuracy(top1, top5)


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    """How many labels are the first, and among the first five, of the logits: [2]."""
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels.unsqueeze(1)
    return torch.stack((ranked[:, 0].sum(), ranked.sum()))
