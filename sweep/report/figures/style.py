"""What all figures share: markers, names of axes, and panels."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from famba_core.figures import DPI

# Markers tell the strategies apart in grey print.
MARKERS = {"none": "*", "upper": "o", "all": "s", "interleaved": "D", "lower": "v"}
OTHER_MARKER = "P"

AXIS_NAMES = {
    "top1_best_pct": "Top-1, best epoch (%)",
    "top1_pct": "Top-1, last epoch (%)",
    "top1_ema_pct": "Top-1, averaged weights (%)",
    "top5_pct": "Top-5, last epoch (%)",
    "train_time_s": "Training time (s)",
    "peak_memory_mib": "Peak memory in training (MiB)",
    "step_time_ms": "Step time (ms)",
    "throughput_img_per_s": "Throughput (images/s)",
    "flops_per_image": "FLOPs per image, forward",
    "train_time_ratio": "Training time, ratio to no fusion",
    "peak_memory_ratio": "Peak memory, ratio to no fusion",
    "published_top1_pct": "Published top-1 (%)",
    "reduced_tokens": "Tokens removed",
    "start_layer": "First fusing layer",
    "r": "r, tokens removed in each fusing layer",
}


def axis_name(column: str) -> str:
    """Return a column's name in words, with its unit."""
    return AXIS_NAMES.get(column, column)


def in_readable_unit(column: str, values: pd.Series[float]) -> tuple[float, str]:
    """Return what to divide a column by, and the name of its axis with the unit."""
    if column == "train_time_s":
        for seconds, unit in ((3600.0, "h"), (60.0, "min")):
            if values.max() >= 5 * seconds:
                return seconds, axis_name(column).replace("(s)", f"({unit})")
    return 1.0, axis_name(column)


def new_figure(
    panels: Sequence[Sequence[str]], *, width: float, height: float, title: str
) -> tuple[Figure, dict[str, Axes]]:
    """Return an empty figure of named panels in rows, and its axes by name; sizes in inches.

    A name that stands in several neighbouring places is one large panel.
    """
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplot_mosaic([list(row) for row in panels])
    for ax in axes.values():
        ax.grid(color="#e3e3e3", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes
