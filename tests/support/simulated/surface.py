"""A smooth surface through the published results, for trying searches and pools.

The surface is a least-squares fit to the 33 rows of Famba-V's Tables 1 to 3 (Vim-Ti and Vim-S). With s the share of
tokens that the mixers still see, f that of tokens in fusing layers (matching costs time and memory), and S_l the
tokens removed in layer l of 196 patches:

    training time, peak memory = a + b s + c f                 a, b, c for each backbone
    top-1 = a - d sum_l (1 - exp(-S_l / 2)) exp(-(l - 1) / 2)  fusing at all in the first layers hurts most
              - e sum_l S_l exp(-(l - 1) / 5)                  the more tokens are fused there, the worse
              + g (1 - exp(-sum_l S_l / 15))                   fusing itself helps, and saturates soon
                                                               a for each backbone, d, e, g for both

R^2: time 0.96 (Vim-Ti) and 0.999 (Vim-S), memory 0.999 and 0.995, top-1 0.96. Largest residuals: 3.1 % of the time,
2.4 % of the memory, 1.4 points of top-1 (root mean square 0.55). The four lengths in the exponents are round numbers
near the best of a coarse scan. No published row varies order or weighting, so they have no effect here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from famba_core.backbones import BACKBONES
from famba_core.config import FusionConfig
from famba_core.fusion.schedule import requested_schedule, tokens_per_layer
from famba_core.paper.published import PAPER_PATCHES
from sweep.grid.budget import PAPER_GRID
from sweep.report.published import paper_table

PAPER_EPOCHS = 300
STEPS_PER_EPOCH = 390  # of 128 images, CIFAR-100
FIRST_LAYERS, FEW_TOKENS = 2.0, 2.0  # decay of the damage by fusing at all: layers, tokens
EARLY_LAYERS = 5.0  # layers over which the damage by each removed token decays
ENOUGH_TOKENS = 15.0  # tokens removed in total that give most of the gain
LOWER_STOP = 19  # the table's lower strategy; it prints no stop layer


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """Simulated results of the paper's 300 epochs on CIFAR-100, 224 x 224 pixels, on the authors' GPU."""

    top1_pct: float
    train_time_s: float
    peak_memory_mib: float


def simulate(backbone: str, schedule: Sequence[int], *, num_patches: int = PAPER_PATCHES) -> Simulated:
    """Return the surface at a schedule. Fewer patches stand for the paper's 196, a narrow backbone for the paper's.

    Raises ValueError for a backbone that stands for none of the paper's.
    """
    published = BACKBONES[backbone].stands_for or backbone
    if published not in (fits := _fits()):
        raise ValueError(f"{backbone} stands for none of the published backbones {', '.join(fits)}")
    size, damage = _size_features([schedule], num_patches), _top1_features([schedule], num_patches)
    fit = fits[published]
    return Simulated(
        top1_pct=float((damage @ fit["top1_pct"]).item()),
        train_time_s=float((size @ fit["train_time_s"]).item()),
        peak_memory_mib=float((size @ fit["peak_memory_mib"]).item()),
    )


def published_rows() -> pd.DataFrame:
    """Return the 33 rows of the paper's tables with their schedules, in its order. Two tables may share a row."""
    tables = [paper_table(number) for number in (1, 2, 3)]
    rows = pd.concat([tables[0], *(table.query("strategy != 'none'") for table in tables[1:])], ignore_index=True)
    return rows.assign(schedule=pd.Series([_schedule(row) for row in rows.to_dict("records")]))


def _schedule(row: Mapping[Any, Any]) -> tuple[int, ...]:
    start = int(row["start_layer"]) if row["strategy"] == "upper" else None
    stop = LOWER_STOP if row["strategy"] == "lower" else None
    fusion = FusionConfig(strategy=row["strategy"], start_layer=start, stop_layer=stop, r=int(row["r"]))
    return requested_schedule(fusion, PAPER_GRID.layers)


def _size_features(schedules: Sequence[Sequence[int]], num_patches: int) -> np.ndarray:
    """Return [n, 3]: 1, the share of tokens seen, the share seen in fusing layers."""
    removed = np.array(schedules)
    seen = np.array([tokens_per_layer(schedule, num_patches + 1) for schedule in schedules])
    whole = removed.shape[1] * (num_patches + 1)
    return np.column_stack([np.ones(len(seen)), seen.sum(axis=1) / whole, (seen * (removed > 0)).sum(axis=1) / whole])


def _top1_features(schedules: Sequence[Sequence[int]], num_patches: int) -> np.ndarray:
    """Return [n, 4]: 1, and the three sums of the module's formula."""
    removed = np.array(schedules) * (PAPER_PATCHES / num_patches)
    depth = np.arange(removed.shape[1])
    return np.column_stack(
        [
            np.ones(len(removed)),
            (1 - np.exp(-removed / FEW_TOKENS)) @ np.exp(-depth / FIRST_LAYERS),
            removed @ np.exp(-depth / EARLY_LAYERS),
            1 - np.exp(-removed.sum(axis=1) / ENOUGH_TOKENS),
        ]
    )


@functools.cache
def _fits() -> dict[str, dict[str, np.ndarray]]:
    """Return the coefficients of the features, by backbone and column."""
    rows = published_rows()
    names = rows["backbone"].unique().tolist()
    is_backbone = (rows["backbone"].to_numpy()[:, None] == np.array(names)).astype(float)
    # an intercept for each backbone, the rest shared: five rows of Vim-S are too few for four coefficients
    shared = np.column_stack([is_backbone, _top1_features(rows["schedule"].tolist(), PAPER_PATCHES)[:, 1:]])
    top1 = np.linalg.lstsq(shared, rows["top1_pct"].to_numpy(float), rcond=None)[0]
    fits = {}
    for i, name in enumerate(names):
        own = rows[rows["backbone"] == name]
        size = _size_features(own["schedule"].tolist(), PAPER_PATCHES)
        fits[name] = {"top1_pct": np.concatenate([top1[i : i + 1], top1[len(names) :]])} | {
            column: np.linalg.lstsq(size, own[column].to_numpy(float), rcond=None)[0]
            for column in ("train_time_s", "peak_memory_mib")
        }
    return fits
