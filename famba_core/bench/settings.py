"""What to measure: the options of a run, the model, the fusion strategies. Importing this does not import torch."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from famba_core.backbones import BACKBONES, register_backbone, unregister_backbone
from famba_core.config import FusionConfig, ModelConfig, Precision
from famba_core.errors import check_config, setting
from famba_core.fusion.schedule import resolve, tokens_per_layer
from famba_core.paper.published import PAPER_PATCHES, read_published_table

NUM_CLASSES = 100
SECTIONS = {
    "scan": "the selective scan alone, forward and backward, on every backend and peer",
    "mixer": "one layer (norm, mixer, residual), forward and backward, on every backend and peer",
    "model": "the whole model, forward and backward, on every backend and peer",
    "step": "the whole training step under the paper's fusion strategies: time, memory, saved bytes",
    "growth": "cost as tokens, batch and depth grow",
    "roofline": "the achieved share of the device's peak rates",
}
PRECISIONS: tuple[str, ...] = get_args(Precision)
DEFAULT_BATCH = {"cpu": 8, "cuda": 128}
QUICK_BATCH = {"cpu": 2, "cuda": 32}
DEFAULT_PRECISION: dict[str, tuple[Precision, ...]] = {"cpu": ("float32",), "cuda": ("bf16",)}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of one run of the benchmark."""

    device: str | None = None  # None: CUDA if available, else the CPU
    precision: tuple[str, ...] | None = None  # None: float32 on the CPU and bf16 on CUDA
    batch: int | None = setting(None, "images; None: the paper's 128 on CUDA and 8 on the CPU", at_least=1)
    backbone: str = setting("vim_tiny", "name of the model's sizes", choices=BACKBONES)
    sections: tuple[str, ...] = tuple(SECTIONS)
    quick: bool = False  # fewer rounds, sizes and images, to check that everything runs
    threads: int | None = setting(None, "CPU threads; None: torch's choice", at_least=1)
    out: Path | None = None  # folder for the Parquet file and the plots; None: no files

    def __post_init__(self) -> None:
        check_config(
            self,
            _known("sections", "section", self.sections, SECTIONS),
            _known("precision", "precision", PRECISIONS if self.precision is None else self.precision, PRECISIONS),
        )


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


def _known(field: str, noun: str, chosen: Collection[str], choices: Iterable[str]) -> tuple[str, bool, str]:
    """Return the rule that something is chosen, and only from the choices."""
    unknown = ", ".join(repr(name) for name in chosen if name not in choices)
    sentence = f"{unknown or 'nothing'} is not a {noun}; choose from {', '.join(choices)}"
    return field, bool(chosen) and not unknown, sentence
