"""Curves over one knob, and learning curves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from famba_core.palette import BLACK, GREY, PALETTE
from sweep.report.figures.style import axis_name, new_figure
from sweep.report.tables import as_range, r_is_scaled

FEWEST_POINTS = 3  # of a curve worth drawing
MOST_LEGEND_LINES = 24
MOST_KNOB_CURVES = 24  # each has its name in the legend
LEGEND_WIDTH, LEGEND_KEY = 180, 18  # letters across a knob's figure, and what an entry takes beside the curve's name
MOST_CURVES = 500  # learning curves in a figure; more would cover each other, and make files of megabytes
UNFUSED = {"color": BLACK, "linewidth": 2.4}
MOST_TICKS = 15  # of an axis with two lines of labels
RATIOS = ("train_time_ratio", "peak_memory_ratio")


class Knob(NamedTuple):
    """A label of the table whose effect is drawn, with all other labels fixed."""

    column: str
    fixed: tuple[str, ...]  # the labels that are equal along a curve
    words: str


STARTING_LAYER = Knob("start_layer", ("backbone", "strategy", "order", "weighting"), "the first fusing layer")
R = Knob("r", ("backbone", "strategy", "start_layer", "stop_layer", "order", "weighting"), "r")


def learning_curves_figure(epochs: pd.DataFrame, title: str) -> Figure:
    """Draw training loss and top-1 over the epochs: a line for each attempt, a colour for each configuration.

    If there are too many configurations for a legend, the colours stand for strategies instead.

    Args:
        epochs: rows of `read_epochs` to draw, with the columns `configuration` and `strategy` added. Lines are drawn in
            the order of the frame.
    """
    figure, axes = new_figure([["loss", "top1_pct"]], width=13, height=5.2, title=title)
    crowded = epochs["configuration"].nunique() > MOST_LEGEND_LINES
    styles = _strategy_styles(epochs) if crowded else _configuration_styles(epochs)
    named: set[str] = set()
    for _, line in epochs.groupby("trial_id", sort=False):
        name = line["strategy" if crowded else "configuration"].iloc[0]
        label = None if name in named else "no fusion" if name == "none" else name
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
    """Return `most` positions spread evenly over `number`, with the first and the last; all if there are fewer."""
    return np.linspace(0, number - 1, min(number, most)).round().astype(int)


def _configuration_styles(epochs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    strategies = dict(zip(epochs["configuration"], epochs["strategy"], strict=True))
    colours = matplotlib.colormaps["viridis"](0.9 * np.arange(len(strategies)) / len(strategies))  # no pale yellows
    styles = zip(strategies.items(), colours, cycle(("-", "--", ":")), strict=False)
    return {
        configuration: UNFUSED if strategy == "none" else {"color": colour, "linestyle": line, "linewidth": 1.2}
        for (configuration, strategy), colour, line in styles
    }


def _strategy_styles(epochs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    fused = epochs.loc[epochs["strategy"] != "none", "strategy"].unique()
    styles = {name: {"color": colour, "linewidth": 0.9} for name, colour in zip(fused, cycle(PALETTE), strict=False)}
    return styles | {"none": UNFUSED}


def knob_figure(table: pd.DataFrame, knob: Knob, title: str) -> Figure | None:
    """Draw accuracy, time and memory over a knob (Famba-V sections 4.2 and 4.3); None if no curve is long enough.

    Args:
        table: from `build_table`.
    """
    curves = list(_curves(table, knob))
    if not curves:
        return None
    if len(curves) > MOST_KNOB_CURVES:
        title += f": {MOST_KNOB_CURVES} of {len(curves)} curves, evenly over the table"
    curves = [curves[i] for i in evenly(len(curves), MOST_KNOB_CURVES)]
    published = "published_top1_pct" in table
    # Accuracies on different data sets are far apart: one panel each. Ratios are there to be compared: one panel.
    accuracies = ["top1_best_pct", "published_top1_pct"] if published else ["top1_best_pct"]
    legend_columns = max(1, min(4, LEGEND_WIDTH // (LEGEND_KEY + max(len(name) for name, _ in curves))))
    legend_lines = math.ceil((1 + len(curves) * len(accuracies)) / legend_columns)
    height = 5.2 + 0.22 * max(0, legend_lines - 4)  # a longer legend does not make the panels smaller
    figure, axes = new_figure([[column, *RATIOS] for column in accuracies], width=14, height=height, title=title)
    for (name, curve), colour in zip(curves, cycle(PALETTE), strict=False):
        unfused = table[(table["strategy"] == "none") & (table["backbone"] == curve["backbone"].iloc[0])]
        for column, ax in axes.items():
            _draw_curve(ax, curve, knob, column, name, colour)
            if column in RATIOS and published:
                _draw_curve(ax, curve, knob, f"published_{column}", name, colour)
            elif column in accuracies and unfused[column].notna().any():
                ax.axhline(unfused[column].iloc[0], color=colour, linewidth=1, linestyle=":")
    for column, ax in axes.items():
        ax.set_ylabel(axis_name(column))
        ax.set_xlabel(axis_name(knob.column))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if knob is R and r_is_scaled(table):
            _write_both_r(ax, pd.concat(curve for _, curve in curves))
        if column in RATIOS:
            ax.axhline(1, color=GREY, linewidth=1, linestyle=":")
    legend_axes = axes[RATIOS[0]]
    legend_axes.plot([], [], color=GREY, linewidth=1, linestyle=":", label="no fusion")
    handles, labels = legend_axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns, frameon=False)
    return figure


def _write_both_r(ax: Axes, points: pd.DataFrame) -> None:
    """Write at each of the paper's r, which is no number of tokens on these images, what goes in each layer."""
    labels = sorted(points["r"].unique().astype(int))
    ticks = [labels[i] for i in evenly(len(labels), MOST_TICKS)]
    removed = {r: "–".join(points.loc[points["r"] == r, "removed_per_layer"]).split("–") for r in ticks}
    ax.set_xticks(ticks, [f"{r}\n{as_range(sorted(map(int, ends)))}" for r, ends in removed.items()])
    ax.set_xlabel("r (paper); below it, tokens removed in each fusing layer")


def _curves(table: pd.DataFrame, knob: Knob) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield curves of at least FEWEST_POINTS measured points, each after its name, such as ", backbone vim_nano".

    The name has the labels in which the curves differ.
    """
    measured = table[table[knob.column].notna() & table["top1_best_pct"].notna()]
    fixed = list(knob.fixed)
    if measured.duplicated([*fixed, knob.column]).any():
        fixed.append("r")  # starting layers were crossed with r: one curve for each r
    varying = [column for column in fixed if measured[column].nunique(dropna=False) > 1]
    for _, curve in measured.groupby(fixed, sort=False, dropna=False):
        if curve[knob.column].nunique() >= FEWEST_POINTS:
            labels = curve[varying].iloc[0].dropna()
            name = "".join(f", {str(column).replace('_', ' ')} {value}" for column, value in labels.items())
            yield name, curve.sort_values(knob.column)


def _draw_curve(ax: Axes, curve: pd.DataFrame, knob: Knob, column: str, name: str, colour: str) -> None:
    published = column.startswith("published")
    ax.errorbar(
        curve[knob.column].astype(int),
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
