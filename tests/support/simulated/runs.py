"""Table and figure of the search comparison's runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from famba_core.palette import BLACK, GREY, PALETTE
from sweep.report.figures.style import new_figure

MOST = 0.5  # share of the whole grid's hours that a run may spend
TARGETS = (0.95, 0.99)  # of the whole grid's hypervolume
REFERENCES_PCT = (0.0, 60.0)  # top-1 of the reference points
Method = Literal["grid", "random", "tpe", "nsga2"]
NAMES: dict[Method, str] = {"grid": "grid order", "random": "random", "tpe": "TPE", "nsga2": "NSGA-II"}
COLOURS: dict[Method, str] = dict(zip(NAMES, (BLACK, PALETTE[4], PALETTE[0], PALETTE[2]), strict=True))


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of one method with one seed; arrays of [trials]."""

    method: Method
    seed: int
    hours: np.ndarray  # GPU-hours spent by the end of each trial
    share: dict[float, np.ndarray]  # of the whole grid's hypervolume, by the reference's top-1


def comparison_table(rows: pd.DataFrame) -> str:
    """Return Markdown: median and quartiles of the share of the grid's hours. Unreached targets count as infinite."""
    columns = list(itertools.product(REFERENCES_PCT, TARGETS))
    lines = [
        "| method | " + " | ".join(f"{target:.0%}, top-1 from {top1:.0f} %" for top1, target in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    shares_of = rows.fillna({"share_of_grid": np.inf}).groupby(["method", "reference_top1_pct", "target"])
    for method, name in NAMES.items():
        cells = []
        for column in columns:
            shares = shares_of.get_group((method, *column))["share_of_grid"]
            low, median, high = (_percent(shares.quantile(q, interpolation="higher")) for q in (0.25, 0.5, 0.75))
            cells.append(median if len(shares) == 1 else f"{median} ({low} to {high})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percent(share: float | np.floating) -> str:
    return f"{share:.0%}" if np.isfinite(share) else f"> {MOST:.0%}"


def comparison_figure(runs: Sequence[Run], hours_of_all: float) -> Figure:
    """Draw median and quartiles of the hypervolume over the share of the hours, a panel for each reference."""
    names = {reference: f"Top-1 counts from {reference:.0f} %" for reference in REFERENCES_PCT}
    result, axes = new_figure([list(names.values())], width=10.5, height=4.6, title="")
    result.suptitle(
        "Searching 606 schedules of Vim-Ti on the simulated surface: median and quartiles of 20 held-out seeds",
        fontsize=12,
    )
    for reference, name in names.items():
        ax = axes[name]
        for method in NAMES:
            _draw(ax, [one for one in runs if one.method == method], reference, hours_of_all)
        for target in TARGETS:
            ax.axhline(100 * target, color=GREY, linewidth=0.9, linestyle=":")
            ax.annotate(
                f"{target:.0%}", (1, 100 * target), (4, 0), ("axes fraction", "data"), "offset points", va="center"
            )
        ax.axvline(25, color=GREY, linewidth=0.9, linestyle=":")
        ax.set(xlim=(0, 100 * MOST), ylim=(60, 100.5), title=name)
        ax.set_xlabel("Simulated GPU-hours, % of the whole grid's")
    axes[names[REFERENCES_PCT[0]]].set_ylabel("Hypervolume, % of the whole grid's")
    handles, labels = next(iter(axes.values())).get_legend_handles_labels()
    result.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return result


def _draw(ax: Axes, runs: Sequence[Run], reference: float, hours_of_all: float) -> None:
    at = np.linspace(0, MOST, 201)
    curves = []
    for one in runs:
        done = np.searchsorted(one.hours / hours_of_all, at, side="right")
        curves.append(np.append(0.0, one.share[reference])[done])
    low, median, high = 100 * np.quantile(curves, (0.25, 0.5, 0.75), axis=0)
    colour = COLOURS[runs[0].method]
    ax.plot(100 * at, median, color=colour, linewidth=2.2, label=NAMES[runs[0].method])
    if len(runs) > 1:
        ax.fill_between(100 * at, low, high, color=colour, alpha=0.15, linewidth=0)
        for edge in (low, high):  # bands that overlap can still be told apart
            ax.plot(100 * at, edge, color=colour, linewidth=0.7, alpha=0.7)
