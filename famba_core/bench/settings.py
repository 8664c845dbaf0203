"""The settings of a benchmark and their defaults. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from famba_core.backbones import BACKBONES
from famba_core.config import Precision
from famba_core.errors import check_config, setting

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


def _known(field: str, noun: str, chosen: Collection[str], choices: Iterable[str]) -> tuple[str, bool, str]:
    """Return the rule that something is chosen, and only from the choices."""
    unknown = ", ".join(repr(name) for name in chosen if name not in choices)
    return (
        field,
        bool(chosen) and not unknown,
        f"{unknown or 'nothing'} is not a {noun}; choose from {', '.join(choices)}",
    )
