"""The trade-off: accuracy against training cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from famba_core.palette import BLACK, GREY, PALETTE
from sweep.report.figures.point_labels import label_points
from sweep.report.figures.style import MARKERS, OTHER_MARKER, axis_name, in_readable_unit, new_figure
from sweep.report.pareto import Frontier, is_feasible

CROSS: dict[str, Any] = {"linestyle": "", "marker": "x", "color": GREY, "markersize": 9, "markeredgewidth": 0.9}


def frontier_figure(table: pd.DataFrame, panels: Sequence[Frontier], title: str) -> Figure:
    """Draw every measured configuration, one panel for each cost.

    Non-dominated configurations are filled and joined by a line. Those that do not meet the constraints of their search
    are grey and crossed out.

    Args:
        table: from `build_table`.
        panels: from `frontiers` of the same table, at least one.
    """
    names = [frontier.cost for frontier in panels]
    figure, axes = new_figure([names], width=1.5 + 5.2 * len(panels), height=5.6, title=title)
    colour_by = "backbone" if table["backbone"].nunique() > 1 else "strategy"
    fused = table.loc[table["strategy"] != "none", colour_by].unique()
    colours = dict(zip(fused, cycle(PALETTE), strict=False))
    for frontier in panels:
        _draw_panel(axes[frontier.cost], table, frontier, table[colour_by].map(lambda key: colours.get(key, BLACK)))
    entries = _legend(table, colours, colour_by)
    lines = math.ceil(len(entries) / (1 + 4 * len(panels)))
    columns = math.ceil(len(entries) / lines)
    figure.legend(handles=entries, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5)
    for frontier in panels:  # when all else is drawn
        _label(axes[frontier.cost], table, frontier)
    return figure


def _draw_panel(ax: Axes, table: pd.DataFrame, frontier: Frontier, colours: pd.Series[str]) -> None:
    divisor, name = in_readable_unit(frontier.cost, table[frontier.cost])
    costs, gains = table[frontier.cost] / divisor, table[frontier.gain]
    _draw_staircase(ax, costs[frontier.mask], gains[frontier.mask])
    measured = table[costs.notna() & gains.notna()]
    on_frontier, feasible = pd.Series(frontier.mask, table.index), pd.Series(is_feasible(table), table.index)
    groups = measured.groupby(["strategy", colours.where(feasible, GREY), on_frontier], sort=False)
    for (strategy, colour, filled), alike in groups:
        ax.errorbar(
            costs[alike.index],
            gains[alike.index],
            xerr=_deviation(alike, frontier.cost, divisor),
            yerr=_deviation(alike, frontier.gain, 1.0),
            linestyle="",
            marker=_marker(str(strategy)),
            markersize=13 if strategy == "none" else 7,
            color=colour,
            markerfacecolor=colour if filled else "white",
            markeredgewidth=1.3,
            elinewidth=0.8,
            capsize=2,
            zorder=3.2 if strategy == "none" else 3.1 if filled else 3,  # readers look for these in a crowd
        )
    outside = measured.index[~feasible[measured.index]]
    ax.plot(costs[outside], gains[outside], **CROSS, zorder=4)
    ax.margins(0.14)
    ax.set_xlabel(name)
    ax.set_ylabel(axis_name(frontier.gain))
    if frontier.hypervolume is not None:
        ax.set_title(f"{frontier.mask.sum()} non-dominated, hypervolume {frontier.hypervolume:.3f}", fontsize=9.5)


def _marker(strategy: str) -> str:
    return MARKERS.get(strategy, OTHER_MARKER)


def _draw_staircase(ax: Axes, costs: pd.Series[float], gains: pd.Series[float]) -> None:
    """Join the points of a frontier by level and upright lines: the border of what it dominates."""
    steps = np.column_stack([costs, gains])
    steps = steps[np.argsort(steps[:, 0], kind="stable")].repeat(2, axis=0)
    ax.plot(steps[1:, 0], steps[:-1, 1], color=GREY, linewidth=1.2, zorder=2)


def _label(ax: Axes, table: pd.DataFrame, frontier: Frontier) -> None:
    """Label the points with their configurations: the unfused ones first, then the frontier, then feasible ones."""
    divisor, _ = in_readable_unit(frontier.cost, table[frontier.cost])
    points = np.column_stack([table[frontier.cost] / divisor, table[frontier.gain]])
    measured = ~np.isnan(points).any(axis=1)
    unfused = (table["strategy"] == "none").to_numpy()
    order = [i for i in np.lexsort((~is_feasible(table), ~frontier.mask, ~unfused)).tolist() if measured[i]]
    label_points(ax, points[order], table["configuration"].iloc[order].tolist())


def _deviation(table: pd.DataFrame, column: str, divisor: float) -> pd.Series[float] | None:
    """Return a column's standard deviations over seeds for error bars; None if there is none."""
    deviation = table.get(f"{column}_std")
    return None if deviation is None or deviation.isna().all() else deviation / divisor


def _legend(table: pd.DataFrame, colours: dict[str, str], colour_by: str) -> list[Line2D]:
    strategies = dict.fromkeys(table.loc[table["strategy"] != "none", "strategy"], GREY)
    strategies = colours if colour_by == "strategy" else strategies
    backbones = colours if colour_by == "backbone" else {}
    entries = [
        _entry("no fusion", MARKERS["none"], BLACK if colour_by == "strategy" else GREY),
        *(_entry(backbone, "o", colour) for backbone, colour in backbones.items()),
        *(_entry(strategy, _marker(strategy), colour) for strategy, colour in strategies.items()),
        Line2D([], [], color=GREY, marker="o", linewidth=1.2, label="filled: non-dominated"),
        _entry("hollow: dominated", "o", GREY, face="white"),
    ]
    if not is_feasible(table).all():
        entries.append(Line2D([], [], **CROSS, label="crossed out: constraints not met"))
    return entries


def _entry(label: str, marker: str, colour: str, *, face: str | None = None) -> Line2D:
    size = 11 if marker == "*" else 7
    return Line2D([], [], ls="", marker=marker, color=colour, label=label, mfc=face or colour, markersize=size)
