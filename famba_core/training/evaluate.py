"""Accuracy of a model on a whole split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from famba_core.config import AugmentConfig, ModelConfig, Precision
from famba_core.data.augment import prepare_evaluation
from famba_core.data.image_dataset import ImageDataset, Split
from famba_core.device import autocast
from famba_core.training.cuda_graph import wrap_in_graph

BATCH_SIZE = 256

Progress = Callable[[Sequence[Tensor]], Iterable[Tensor]]  # from the batches of an epoch or an evaluation to the same


class Accuracy(NamedTuple):
    """Percentage of images whose label is the first, or among the first five, of the predicted classes."""

    top1_pct: float
    top5_pct: float


class Evaluator:
    """Measures the accuracy of a model on a split. The weights may change in place between calls."""

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        dataset: ImageDataset,
        *,
        config: ModelConfig,
        augmentation: AugmentConfig,
        precision: Precision = "float32",
        progress: Progress = iter,
    ):
        """model: on the device of the split's images. progress: wraps the batches, as tqdm does."""
        self.model = model
        self.split = split
        self.progress = progress

        def count_hits(images: Tensor, labels: Tensor) -> Tensor:
            """Count the images whose label is the first, and those whose label is among the first five classes: [2]."""
            inputs = prepare_evaluation(
                images, config=augmentation, image_size=config.image_size, mean=dataset.mean, std=dataset.std
            )
            with autocast(inputs.device, precision):
                logits = model(inputs)
            ranked = logits.float().topk(min(5, logits.shape[1]), dim=1).indices == labels.unsqueeze(1)
            return torch.stack((ranked[:, 0].sum(), ranked.sum()))

        self._count_hits = wrap_in_graph(count_hits, split.images.device, name="the evaluation")

    @torch.inference_mode()
    def __call__(self) -> Accuracy:
        """Return top-1 and top-5 accuracy in percent."""
        training = self.model.training
        self.model.eval()
        images, labels = self.split.images, self.split.labels
        hits = torch.zeros(2, device=images.device)
        for batch in self.progress(torch.arange(len(labels), device=images.device).split(BATCH_SIZE)):
            hits += self._count_hits(images[batch], labels[batch])
        self.model.train(training)
        top1, top5 = (100 * hits / len(labels)).tolist()
        return Accuracy(top1, top5)
