"""Curves over one knob, and over the epochs. Takes finished frames, returns a Figure, writes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from famba_core.palette import BLACK, GREY, PALETTE
from sweep.report.figures.style import axis_name, new_figure

FEWEST_POINTS = 3  # of a curve worth drawing
MOST_LEGEND_LINES = 24
MOST_KNOB_CURVES = 24  # each has its name in the legend
LEGEND_WIDTH, LEGEND_KEY = 180, 18  # letters across a knob's figure, and what an entry takes beside the curve's name
MOST_CURVES = 500  # of learning curves in a figure; more would be a stain, and megabytes
UNFUSED = {"color": BLACK, "linewidth": 2.4}
RATIOS = ("train_time_ratio", "peak_memory_ratio")


def starting_layer_figure(table: pd.DataFrame, title: str) -> Figure | None:
    """Accuracy, time and memory over the first fusing layer (the paper's section 4.2), or None without such a curve."""
    return _knob_figure(table, "start_layer", ["backbone", "strategy", "order", "weighting"], title)


def r_curve_figure(table: pd.DataFrame, title: str) -> Figure | None:
    """Accuracy, time and memory over r, all else fixed (the paper's section 4.3), or None without such a curve."""
    return _knob_figure(table, "r", ["backbone", "strategy", "start_layer", "stop_layer", "order", "weighting"], title)


def learning_curves_figure(epochs: pd.DataFrame, title: str) -> Figure:
    """Training loss and top-1 over the epochs: a line for each attempt, a colour for each configuration.

    Too many configurations to name have the colours of their strategies.

    Args:
        epochs: rows of `store.read_epochs` to show, with columns `configuration` and `strategy`; lines in the order of
            the frame.
    """
    figure, axes = new_figure([["loss", "top1_pct"]], width=13, height=5.2, title=title)
    crowded = epochs["configuration"].nunique() > MOST_LEGEND_LINES
    styles = _strategy_styles(epochs) if crowded else _configuration_styles(epochs)
    named: set[str] = set()
    for _, line in epochs.groupby("trial_id", sort=False):
        name = line["strategy" if crowded else "configuration"].iloc[0]
        label = "_" * (name in named) + ("no fusion" if name == "none" else name)
        named.add(name)
        for column, ax in axes.items():
            ax.plot(line["epoch"].astype(int), line[column], **styles[name], label=label)
    axes["loss"].set_ylabel("Mean training loss of the epoch")
    axes["top1_pct"].set_ylabel("Top-1 accuracy after the epoch (%)")
    for ax in axes.values():
        ax.set_xlabel("Epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*axes["loss"].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8.5)
    return figure


def evenly(number: int, most: int) -> np.ndarray:
    """The positions of `most` of so many, the first and the last among them; of all where these are no more."""
    return np.linspace(0, number - 1, min(number, most)).round().astype(int)


def _configuration_styles(epochs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    strategies = dict(zip(epochs["configuration"], epochs["strategy"], strict=True))
    colours = matplotlib.colormaps["viridis"]
    return {
        configuration: UNFUSED
        if strategy == "none"
        else {
            "color": colours(0.9 * i / len(strategies)),  # its last yellows are too pale
            "linestyle": ("-", "--", ":")[i % 3],
            "linewidth": 1.2,
        }
        for i, (configuration, strategy) in enumerate(strategies.items())
    }


def _strategy_styles(epochs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    strategies = [strategy for strategy in epochs["strategy"].unique() if strategy != "none"]
    fused = {
        name: {"color": colour, "linewidth": 0.9} for name, colour in zip(strategies, cycle(PALETTE), strict=False)
    }
    return fused | {"none": UNFUSED}


def _knob_figure(table: pd.DataFrame, knob: str, fixed: list[str], title: str) -> Figure | None:
    curves = list(_curves(table, knob, fixed))
    if not curves:
        return None
    if len(curves) > MOST_KNOB_CURVES:
        title += f": {MOST_KNOB_CURVES} of {len(curves)} curves, evenly over the table"
        curves = [curves[i] for i in evenly(len(curves), MOST_KNOB_CURVES)]
    # Accuracies of different data sets lie far apart: a panel each. Ratios are there to be compared: one panel.
    accuracies = ["top1_best_pct", *(["published_top1_pct"] if "published_top1_pct" in table else [])]
    columns = max(1, min(4, LEGEND_WIDTH // (LEGEND_KEY + max(len(name) for name, _ in curves))))
    lines = math.ceil((1 + len(curves) * len(accuracies)) / columns)
    height = 5.2 + 0.22 * max(0, lines - 4)  # a longer legend takes nothing from the panels
    figure, axes = new_figure([[column, *RATIOS] for column in accuracies], width=14, height=height, title=title)
    for (name, curve), colour in zip(curves, cycle(PALETTE), strict=False):
        unfused = table[(table["strategy"] == "none") & (table["backbone"] == curve["backbone"].iloc[0])]
        for column in accuracies:
            _draw_curve(axes[column], curve, knob, column, name, colour)
            if unfused[column].notna().any():
                axes[column].axhline(unfused[column].iloc[0], color=colour, linewidth=1, linestyle=":")
        for column in RATIOS:
            _draw_curve(axes[column], curve, knob, column, name, colour)
            if "published_top1_pct" in table:
                _draw_curve(axes[column], curve, knob, f"published_{column}", name, colour)
    for column, ax in axes.items():
        ax.set_xlabel(axis_name(knob))
        ax.set_ylabel(axis_name(column))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if column in RATIOS:
            ax.axhline(1, color=GREY, linewidth=1, linestyle=":")
    legend_axes = axes[RATIOS[0]]
    legend_axes.plot([], [], color=GREY, linewidth=1, linestyle=":", label="no fusion")
    figure.legend(*legend_axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _curves(table: pd.DataFrame, knob: str, fixed: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Curves of three or more measured points, and what tells each from the others, such as ", backbone vim_nano"."""
    measured = table[table[knob].notna() & table["top1_best_pct"].notna()]
    if measured.duplicated([*fixed, knob]).any():
        fixed = [*fixed, "r"]  # a starting layer crossed with r: one curve for each r
    varying = [column for column in fixed if measured[column].nunique(dropna=False) > 1]
    for _, curve in measured.groupby(list(fixed), sort=False, dropna=False):
        if curve[knob].nunique() >= FEWEST_POINTS:
            labels = curve[varying].iloc[0].dropna()
            yield (
                "".join(f", {str(column).replace('_', ' ')} {value}" for column, value in labels.items()),
                curve.sort_values(knob),
            )


def _draw_curve(ax: Axes, curve: pd.DataFrame, knob: str, column: str, name: str, colour: str) -> None:
    published = column.startswith("published")
    ax.errorbar(
        curve[knob].astype(int),
        curve[column],
        yerr=curve.get(f"{column}_std"),
        color=colour,
        label=("published" if published else "measured") + name,
        marker="s" if published else "o",
        markersize=5.5,
        markerfacecolor="white" if published else colour,
        linestyle="--" if published else "-",
        linewidth=1.4,
        capsize=2,
        elinewidth=0.8,
    )
