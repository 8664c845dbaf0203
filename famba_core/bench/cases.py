"""The model sizes and fusion strategies to measure. Importing this module does not import torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from famba_core.backbones import BACKBONES, register_backbone, unregister_backbone
from famba_core.config import FusionConfig, ModelConfig
from famba_core.fusion.schedule import resolve, tokens_per_layer
from famba_core.paper.published import PAPER_PATCHES, read_published_table

NUM_CLASSES = 100


@dataclass(frozen=True, kw_only=True)
class FusionCase:
    """A strategy with the paper's settings, and the paper's results (Famba-V Table 1)."""

    name: str
    fusion: FusionConfig
    paper_time_ratio: float | None = None  # to the same model without fusion; None for backbones not in the paper
    paper_memory_ratio: float | None = None


_PAPER_CASES = {
    "none": FusionConfig(),
    "all": FusionConfig(strategy="all", r=7),
    "interleaved": FusionConfig(strategy="interleaved", r=14),
    "lower 1-19": FusionConfig(strategy="lower", stop_layer=19, r=9),
    "upper 6-24": FusionConfig(strategy="upper", start_layer=6, r=9),
}


def fusion_cases(model: ModelConfig) -> list[FusionCase]:
    """Return the paper's five cases, with r in proportion to the model's patches."""
    scale = model.num_patches / PAPER_PATCHES
    published = {row.strategy: row for row in read_published_table(1) if row.backbone == model.backbone and scale == 1}
    cases = []
    for name, fusion in _PAPER_CASES.items():
        if fusion.r is not None:
            fusion = replace(fusion, r=max(1, round(fusion.r * scale)))
            name = f"{name} r{fusion.r}"
        case = FusionCase(name=name, fusion=fusion)
        if published:
            row, unfused = published[fusion.strategy], published["none"]
            case = replace(
                case,
                paper_time_ratio=row.train_time_s / unfused.train_time_s,
                paper_memory_ratio=row.peak_memory_mib / unfused.peak_memory_mib,
            )
        cases.append(case)
    return cases


def model_config(backbone: str) -> ModelConfig:
    """Return the paper's model for CIFAR-100; narrow backbones have the image size that they are made for."""
    is_narrow = BACKBONES[backbone].stands_for is not None
    return ModelConfig(backbone=backbone, image_size=32 if is_narrow else 224, num_classes=NUM_CLASSES)


def token_ratio(model: ModelConfig, fusion: FusionConfig) -> float:
    """Return the tokens that the mixers see, summed over the layers, relative to no fusion."""
    layers, tokens = model.token_grid
    return sum(tokens_per_layer(resolve(fusion, model.token_grid).schedule, tokens)) / (layers * tokens)


@contextlib.contextmanager
def backbone_of_depth(backbone: str, depth: int) -> Iterator[str]:
    """Yield the name of the backbone with another depth, which exists while the context lasts."""
    sizes = BACKBONES[backbone]
    if depth == sizes.depth:
        yield backbone
        return
    name = f"{backbone}, {depth} layers"
    register_backbone(name, replace(sizes, depth=depth))
    try:
        yield name
    finally:
        unregister_backbone(name)
