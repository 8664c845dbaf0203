"""What the trainer, the evaluation and the benchmarks need of a model, whatever its family."""

from __future__ import annotations

from torch import Tensor, nn

from famba_core.config import FusionSchedule, ModelConfig


class Classifier(nn.Module):
    """An image classifier whose layers can fuse tokens. A family of backbones implements it.

    `forward` must not depend on values of tensors or wait for the device: a CUDA graph replays it. Parameters named
    "pos_embed" and "cls_token", and those of one dimension, are trained without weight decay.
    """

    config: ModelConfig
    fusion: FusionSchedule  # what each layer removes
    recompute: bool = False  # keep as little as possible for backward, and compute the rest again; set before a step
    head: nn.Linear  # the last layer; its weight is where the model is

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 3, H, W], normalised. Returns logits [B, num_classes]."""
        raise NotImplementedError
