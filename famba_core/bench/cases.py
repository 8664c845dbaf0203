"""The sizes and fusion strategies that are measured. Imports no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from famba_core.config import BACKBONES, FusionConfig, ModelConfig
from famba_core.fusion.schedule import resolve, tokens_per_layer
from famba_core.paper.published import PAPER_PATCHES, read_published_table

NUM_CLASSES = 100


@dataclass(frozen=True, kw_only=True)
class FusionCase:
    """A strategy at the paper's settings, with what the paper measured (Famba-V Table 1)."""

    name: str
    fusion: FusionConfig
    paper_time_ratio: float | None = None  # to the same model without fusion; None for other backbones
    paper_memory_ratio: float | None = None


_PAPER_CASES = {
    "none": FusionConfig(),
    "all r7": FusionConfig(strategy="all", r=7),
    "interleaved r14": FusionConfig(strategy="interleaved", r=14),
    "lower 1-19 r9": FusionConfig(strategy="lower", stop_layer=19, r=9),
    "upper 6-24 r9": FusionConfig(strategy="upper", start_layer=6, r=9),
}


def fusion_cases(model: ModelConfig) -> list[FusionCase]:
    """The paper's five, their r scaled to the model's patches where those are fewer than the paper's."""
    published = {row.strategy: row for row in read_published_table(1) if row.backbone == model.backbone}
    unfused = published.get("none") if model.num_patches == PAPER_PATCHES else None
    cases = []
    for name, fusion in _PAPER_CASES.items():
        if fusion.r is not None and model.num_patches != PAPER_PATCHES:
            r = max(1, round(fusion.r * model.num_patches / PAPER_PATCHES))
            fusion = replace(fusion, r=r)
            name = f"{name.rpartition(' r')[0]} r{r}"
        cases.append(
            FusionCase(
                name=name,
                fusion=fusion,
                paper_time_ratio=published[fusion.strategy].train_time_s / unfused.train_time_s if unfused else None,
                paper_memory_ratio=published[fusion.strategy].peak_memory_mib / unfused.peak_memory_mib
                if unfused
                else None,
            )
        )
    return cases


def model_config(backbone: str) -> ModelConfig:
    """The paper's model for CIFAR-100; narrow backbones take the image size that they are made for."""
    narrow = BACKBONES[backbone].stands_for is not None
    return ModelConfig(backbone=backbone, image_size=32 if narrow else 224, num_classes=NUM_CLASSES)


def token_ratio(model: ModelConfig, fusion: FusionConfig) -> float:
    """Tokens that the mixers see, summed over the layers, over what they see without fusion."""
    layers, tokens = model.token_grid
    return sum(tokens_per_layer(resolve(fusion, model.token_grid).schedule, tokens)) / (layers * tokens)


# Patches along a side: 65, 145, 197, 257, 401, 577 and 785 tokens.
GROWTH_SIDES = (8, 12, 14, 16, 20, 24, 28)
GROWTH_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
GROWTH_DEPTHS = (1, 2, 4, 8, 16, 24, 48)


@contextlib.contextmanager
def backbone_of_depth(backbone: str, depth: int) -> Iterator[str]:
    """The name of a backbone of other depth, known as long as the context lasts."""
    sizes = BACKBONES[backbone]
    if depth == sizes.depth:
        yield backbone
        return
    name = f"{backbone}, {depth} layers"
    BACKBONES[name] = replace(sizes, depth=depth)
    try:
        yield name
    finally:
        del BACKBONES[name]
