"""What a benchmark is asked to measure, and its defaults. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from famba_core.config import BACKBONES, Precision
from famba_core.errors import reject

SECTIONS = {
    "scan": "the selective scan alone, forward and backward, on every backend and peer",
    "mixer": "one layer (norm, mixer, residual), forward and backward, on every backend and peer",
    "model": "the whole model, forward and backward, on every backend and peer",
    "step": "the whole training step under the paper's fusion strategies: time, memory, saved bytes",
    "growth": "cost as tokens, batch and depth grow",
    "roofline": "the achieved share of what the device can do at most",
}
PRECISIONS: tuple[str, ...] = get_args(Precision)
DEFAULT_BATCH = {"cpu": 8, "cuda": 128}
QUICK_BATCH = {"cpu": 2, "cuda": 32}
DEFAULT_PRECISION: dict[str, tuple[Precision, ...]] = {"cpu": ("float32",), "cuda": ("bf16",)}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of one run of the benchmark."""

    device: str | None = None  # None takes CUDA where there is one
    precision: tuple[str, ...] | None = None  # None takes float32 on the CPU and bf16 on CUDA
    batch: int | None = None  # images; None takes the paper's 128 on CUDA and 8 on the CPU
    backbone: str = "vim_tiny"
    sections: tuple[str, ...] = tuple(SECTIONS)
    quick: bool = False  # fewer rounds, sizes and images: to see that everything runs
    threads: int | None = None  # CPU threads; None leaves torch's choice
    out: Path | None = None  # folder for the Parquet file and the plot; None writes none

    def __post_init__(self) -> None:
        unknown = [name for name in self.sections if name not in SECTIONS]
        wrong = [name for name in self.precision or () if name not in PRECISIONS]
        reject(
            ("batch", self.batch is not None and self.batch < 1, f"must be at least 1, not {self.batch}"),
            (
                "backbone",
                self.backbone not in BACKBONES,
                f"{self.backbone!r} is not a backbone; choose from {', '.join(BACKBONES)}",
            ),
            (
                "sections",
                bool(unknown) or not self.sections,
                f"{', '.join(unknown) or 'none'} is not a section; choose from {', '.join(SECTIONS)}",
            ),
            (
                "precision",
                bool(wrong) or self.precision == (),
                f"{', '.join(wrong) or 'none'} is not a precision; choose from {', '.join(PRECISIONS)}",
            ),
            ("threads", self.threads is not None and self.threads < 1, f"must be at least 1, not {self.threads}"),
        )
