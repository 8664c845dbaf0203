"""The trade-off: accuracy against what it costs to train. Takes finished frames, returns a Figure, writes nothing."""

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
from sweep.report.pareto import Frontier, feasible

CROSS: dict[str, Any] = {"linestyle": "", "marker": "x", "color": GREY, "markersize": 9, "markeredgewidth": 0.9}


def frontier_figure(table: pd.DataFrame, panels: Sequence[Frontier], title: str) -> Figure:
    """One panel for each cost: every measured configuration, the non-dominated ones filled and joined by a line.

    What does not meet the constraints of its search is grey and crossed out.

    Args:
        table: from `tables.build_table`.
        panels: from `pareto.frontiers` of the same table, at least one.
    """
    names = [frontier.cost for frontier in panels]
    figure, axes = new_figure([names], width=1.5 + 5.2 * len(panels), height=5.6, title=title)
    colour_by = "backbone" if table["backbone"].nunique() > 1 else "strategy"
    colours = dict(zip(table.loc[table["strategy"] != "none", colour_by].unique(), cycle(PALETTE), strict=False))
    for frontier in panels:
        _draw_panel(axes[frontier.cost], table, frontier, table[colour_by].map(lambda key: colours.get(key, BLACK)))
    entries = _legend(table, colours, colour_by)
    lines = math.ceil(len(entries) / (1 + 4 * len(panels)))
    columns = math.ceil(len(entries) / lines)
    figure.legend(handles=entries, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5)
    for frontier in panels:
        _label(axes[frontier.cost], table, frontier)
    return figure


def _draw_panel(ax: Axes, table: pd.DataFrame, frontier: Frontier, colours: pd.Series) -> None:
    divisor, name = in_readable_unit(frontier.cost, table[frontier.cost])
    costs, gains = table[frontier.cost] / divisor, table[frontier.gain]
    steps = np.column_stack([costs[frontier.mask], gains[frontier.mask]])
    steps = steps[np.argsort(steps[:, 0], kind="stable")].repeat(2, axis=0)
    ax.plot(steps[1:, 0], steps[:-1, 1], color=GREY, linewidth=1.2, zorder=2)
    measured = table[costs.notna() & gains.notna()]
    filled, answer = pd.Series(frontier.mask, table.index), pd.Series(feasible(table), table.index)
    colours = colours.where(answer, GREY)
    for (strategy, colour, full), alike in measured.groupby(["strategy", colours, filled], sort=False):
        ax.errorbar(
            costs[alike.index],
            gains[alike.index],
            xerr=_spread(alike, frontier.cost, divisor),
            yerr=_spread(alike, frontier.gain, 1.0),
            linestyle="",
            marker=MARKERS.get(str(strategy), OTHER_MARKER),
            markersize=13 if strategy == "none" else 7,
            color=colour,
            markerfacecolor=colour if full else "white",
            markeredgewidth=1.3,
            elinewidth=0.8,
            capsize=2,
            zorder=3.2 if strategy == "none" else 3.1 if full else 3,  # in a crowd these are looked for
        )
    outside = measured.index[~answer[measured.index]]
    ax.plot(costs[outside], gains[outside], **CROSS, zorder=4)
    ax.margins(0.14)
    ax.set_xlabel(name)
    ax.set_ylabel(axis_name(frontier.gain))
    if frontier.hypervolume is not None:
        ax.set_title(f"{frontier.mask.sum()} non-dominated, hypervolume {frontier.hypervolume:.3f}", fontsize=9.5)


def _label(ax: Axes, table: pd.DataFrame, frontier: Frontier) -> None:
    divisor, _ = in_readable_unit(frontier.cost, table[frontier.cost])
    points = np.column_stack([table[frontier.cost] / divisor, table[frontier.gain]])
    measured = ~np.isnan(points).any(axis=1)
    unfused = (table["strategy"] == "none").to_numpy()
    by_weight = [i for i in np.lexsort((~feasible(table), ~frontier.mask, ~unfused)).tolist() if measured[i]]
    label_points(ax, points[by_weight], table["configuration"].iloc[by_weight].tolist())


def _spread(table: pd.DataFrame, column: str, divisor: float) -> pd.Series | None:
    spread = table[f"{column}_std"]
    return None if spread.isna().all() else spread / divisor


def _legend(table: pd.DataFrame, colours: dict[str, str], colour_by: str) -> list[Line2D]:
    entries = [
        _entry(str(key), "o" if colour_by == "backbone" else MARKERS.get(str(key), OTHER_MARKER), colour)
        for key, colour in colours.items()
    ]
    if colour_by == "backbone":
        entries += [
            _entry(strategy, MARKERS.get(strategy, OTHER_MARKER), GREY)
            for strategy in table["strategy"].unique()
            if strategy != "none"
        ]
    return [
        _entry("no fusion", MARKERS["none"], BLACK if colour_by == "strategy" else GREY),
        *entries,
        Line2D([], [], color=GREY, marker="o", linewidth=1.2, label="filled: non-dominated"),
        _entry("hollow: dominated", "o", GREY, filled=False),
        *([] if feasible(table).all() else [Line2D([], [], **CROSS, label="crossed out: constraints not met")]),
    ]


def _entry(label: str, marker: str, colour: str, filled: bool = True) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="",
        marker=marker,
        color=colour,
        label=label,
        markerfacecolor=colour if filled else "white",
        markersize=11 if marker == "*" else 7,
    )
