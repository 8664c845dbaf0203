"""The figures of a report, each with its heading, description and note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from famba_core.figures import default_style
from sweep.report.figures import curves
from sweep.report.figures.frontier import frontier_figure
from sweep.report.figures.point_labels import MOST_LABELS
from sweep.report.figures.style import axis_name
from sweep.report.pareto import Frontier
from sweep.report.study_data import StudyData
from sweep.text import plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A figure of a report, and the texts around it."""

    name: str  # of its files, without suffix
    heading: str
    alt: str
    note: str = ""  # what the figure leaves out; "" if nothing
    figure: Figure


@default_style()
def draw_pictures(data: StudyData, table: pd.DataFrame, trade_offs: Sequence[Frontier]) -> list[Picture]:
    """Return the figures that the study has enough rows for."""
    title = f"{data.plan.study}, profile {data.plan.profile}, on {' and '.join(data.distinct('device_name'))}"
    pictures = [
        _frontier_picture(table, trade_offs, title),
        _knob_picture(table, curves.STARTING_LAYER, "starting_layer", "Starting layer", title),
        _knob_picture(table, curves.R, "r_curve", "Tokens removed per layer", title),
        _learning_curves_picture(data, table, title),
    ]
    return [picture for picture in pictures if picture is not None]


def _frontier_picture(table: pd.DataFrame, trade_offs: Sequence[Frontier], title: str) -> Picture | None:
    points = max((len(table[[frontier.gain, frontier.cost]].dropna()) for frontier in trade_offs), default=0)
    if not points:
        return None
    frontiers = "; ".join(
        f"non-dominated in {axis_name(frontier.gain)} against {axis_name(frontier.cost)}: "
        + (", ".join(f"({name})" for name in table.loc[frontier.mask, "configuration"]) or "none")
        for frontier in trade_offs
    )
    note = f"Each panel labels at most {MOST_LABELS} of its {plural(points, 'point')}, those on the frontier first."
    return Picture(
        name="frontier",
        heading="Accuracy against cost",
        alt=f"Scatter plot of {plural(points, 'configuration')}; {frontiers}",
        note=note if points > MOST_LABELS else "",
        figure=frontier_figure(table, trade_offs, title),
    )


def _knob_picture(table: pd.DataFrame, knob: curves.Knob, name: str, heading: str, title: str) -> Picture | None:
    figure = curves.knob_figure(table, knob, title)
    if figure is None:
        return None
    alt = f"Accuracy, training time ratio and peak memory ratio against {knob.words}, with the numbers of the table"
    return Picture(name=name, heading=heading, alt=alt, figure=figure)


def _learning_curves_picture(data: StudyData, table: pd.DataFrame, title: str) -> Picture | None:
    trials = _completed_trials(data, table)
    drawn = trials.iloc[curves.evenly(len(trials), curves.MOST_CURVES)]
    epochs = drawn.merge(data.epochs, on=["trial_id", "attempt"])
    if epochs.empty:
        return None
    note = f"Drawn are {len(drawn)} of {plural(len(trials), 'completed trial')}, spread evenly over the table."
    return Picture(
        name="learning_curves",
        heading="Learning curves",
        alt="Training loss and top-1 accuracy over the epochs, one line for each completed trial",
        note=note if len(drawn) < len(trials) else "",
        figure=curves.learning_curves_figure(epochs, title),
    )


def _completed_trials(data: StudyData, table: pd.DataFrame) -> pd.DataFrame:
    """Return trial_id, attempt, configuration and strategy of the trials behind the table, in its order.

    A trial that several configurations share has the first one's name.
    """
    trials = table[["configuration", "strategy"]].assign(trial_id=table["trial_ids"].str.split()).explode("trial_id")
    return trials.drop_duplicates("trial_id").merge(data.completed[["trial_id", "attempt"]], on="trial_id")
