"""The published results of Famba-V (Shen, Wan, Wang, Zhang; CIFAR-100, the authors' GPU): see README.md."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib.resources import files

PAPER_PATCHES = 196  # 224 x 224 pixels in patches of 16; the paper's r, and budgets like it, are stated for these


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One row of the paper's tables: one configuration, trained for 300 epochs."""

    backbone: str
    strategy: str
    start_layer: int | None  # first layer that fuses; None without fusion
    r: int  # tokens removed in each fusing layer; 0 without fusion
    top1_pct: float
    top5_pct: float
    train_time_s: int
    peak_memory_mib: int


@functools.cache
def read_published_table(number: int) -> tuple[PublishedRow, ...]:
    """Return the rows of Table 1, 2 or 3 in the paper's order. Only Table 1 has the models without fusion."""
    with (files("famba_core.paper") / f"famba_v_table{number}.csv").open() as file:
        return tuple(
            PublishedRow(
                backbone=row["backbone"],
                strategy=row["strategy"],
                start_layer=int(row["start_layer"]) if row["start_layer"] else None,
                r=int(row["r"]),
                top1_pct=float(row["top1_pct"]),
                top5_pct=float(row["top5_pct"]),
                train_time_s=int(row["train_time_s"]),
                peak_memory_mib=int(row["peak_memory_mib"]),
            )
            for row in csv.DictReader(file)
        )
