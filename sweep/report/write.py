"""Writes the report of a study: everything drawn from its plan and its stored rows, as files and as one page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from famba_core.files import write_atomically
from sweep.plan.model import Plan
from sweep.plan.plan_file import plan_from_json
from sweep.report import table_text, tables
from sweep.report.figures import curves, frontier
from sweep.report.figures.point_labels import MOST_LABELS
from sweep.report.figures.style import axis_name, render
from sweep.report.page import Picture, page
from sweep.report.pareto import Frontier, answers, frontiers, non_dominated
from sweep.store.errors import as_user_error
from sweep.store.layout import StudyPaths
from sweep.store.outcomes import select_completed
from sweep.store.study import read_epochs, read_plan_json, read_rows
from sweep.text import plural


@dataclass(frozen=True, kw_only=True)
class Report:
    """A written report: where it lies, and what its table says."""

    index: Path  # the page that holds all of it
    table: Path  # the table as Markdown
    files: tuple[Path, ...]  # every file, these two included
    columns: list[table_text.Column]
    caption: str


def write_report(folder: Path) -> Report:
    """Draw the tables and figures of a study into its folder `report`, replacing those of the same names.

    Parts that cannot be read are left out and counted on the page; what is stored of trials that the plan no longer
    has is left out. Raises UserError if the folder holds no plan, or cannot be written.
    """
    plan = plan_from_json(read_plan_json(folder), folder)
    rows, damaged_rows = read_rows(folder)
    epochs, damaged_epochs = read_epochs(folder)
    rows, epochs = _planned(plan, rows), _planned(plan, epochs)
    table = tables.build_table(plan, rows)
    trade_offs = frontiers(table, plan.objectives)
    listed = frontier_rows(table, plan.objectives, trade_offs)
    pictures = _pictures(plan, rows, epochs, table, trade_offs)
    caption = tables.caption(plan, rows, table)
    name = f"table{plan.paper_table}" if plan.paper_table else "table"

    files = {f"{picture.name}.{kind}": render(picture.figure, kind) for picture in pictures for kind in ("svg", "png")}
    shown = [(picture, base64.b64encode(files[f"{picture.name}.svg"]).decode()) for picture in pictures]
    texts = {
        f"{name}.md": table_text.to_markdown(table, caption),
        f"{name}.tex": table_text.to_latex(table, caption, f"tab:{plan.study}"),
        f"{name}.csv": table_text.to_csv(table),
        "frontier.csv": table_text.to_csv(listed),
        "index.html": page(
            plan,
            rows,
            table,
            caption,
            listed,
            trade_offs,
            shown,
            [path.relative_to(folder) for path in damaged_rows + damaged_epochs],
        ),
    }
    files |= {file: text.encode() for file, text in texts.items()}
    report = StudyPaths(folder).report
    with as_user_error(report):
        report.mkdir(exist_ok=True)
        for file, data in files.items():
            write_atomically(report / file, data)
    return Report(
        index=report / "index.html",
        table=report / f"{name}.md",
        files=tuple(report / file for file in files),
        columns=table_text.columns(table),
        caption=caption,
    )


def _planned(plan: Plan, stored: pd.DataFrame) -> pd.DataFrame:
    """Rows or epochs of the plan's trials: the grid may have been edited since others were stored."""
    return stored[stored["trial_id"].isin([trial.trial_id for trial in plan.trials])].reset_index(drop=True)


def frontier_rows(table: pd.DataFrame, objectives: dict[str, str], trade_offs: Sequence[Frontier]) -> pd.DataFrame:
    """The configurations that are non-dominated in a trade-off or in all objectives at once, best first.

    Columns: configuration, the labels, the objectives, and for each trade-off, and for all objectives, a bool.
    """
    on_frontier = {f"non_dominated_{frontier.gain}_{frontier.cost}": frontier.mask for frontier in trade_offs}
    on_frontier["non_dominated"] = non_dominated(answers(table, list(objectives)), list(objectives.values()))
    listed = table[["configuration", *tables.LABELS, *objectives]].assign(**on_frontier)
    first, direction = next(iter(objectives.items()))
    return listed[listed[list(on_frontier)].any(axis=1)].sort_values(first, ascending=direction == "min")


def _pictures(
    plan: Plan, rows: pd.DataFrame, epochs: pd.DataFrame, table: pd.DataFrame, trade_offs: list[Frontier]
) -> list[Picture]:
    """The figures that this study has the rows for."""
    title = f"{plan.study}, profile {plan.profile}, on {' and '.join(tables.devices(rows))}"
    attempts = _attempts(rows, table)
    shown = attempts.iloc[curves.evenly(len(attempts), curves.MOST_CURVES)]
    curve_rows = shown.merge(epochs, on=["trial_id", "attempt"])
    points = max((len(table[[frontier.gain, frontier.cost]].dropna()) for frontier in trade_offs), default=0)
    drawn: list[tuple[str, str, str, str, Figure | None]] = [
        (
            "frontier",
            "Accuracy against cost",
            f"Scatter plot of {plural(points, 'configuration')}: {_frontier_words(table, trade_offs)}",
            f"Of {plural(points, 'point')} at most {MOST_LABELS} have a label in each panel, the frontier's first."
            if points > MOST_LABELS
            else "",
            frontier.frontier_figure(table, trade_offs, title) if points else None,
        ),
        (
            "starting_layer",
            "Starting layer",
            "Accuracy, training time ratio and peak memory ratio over the first "
            "fusing layer, with the numbers of the table",
            "",
            curves.starting_layer_figure(table, title),
        ),
        (
            "r_curve",
            "Tokens removed per layer",
            "Accuracy, training time ratio and peak memory ratio over r, with the numbers of the table",
            "",
            curves.r_curve_figure(table, title),
        ),
        (
            "learning_curves",
            "Learning curves",
            "Training loss and top-1 accuracy over the epochs, a line for each completed trial",
            f"Drawn are {len(shown)} of {plural(len(attempts), 'completed trial')}, evenly over the table."
            if len(shown) < len(attempts)
            else "",
            curves.learning_curves_figure(curve_rows, title) if len(curve_rows) else None,
        ),
    ]
    return [
        Picture(name=name, heading=heading, alt=alt, note=note, figure=figure)
        for name, heading, alt, note, figure in drawn
        if figure is not None
    ]


def _attempts(rows: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The attempts behind the table, in its order, each with its configuration, the first that asked for it."""
    trials = (
        table[["configuration", "strategy", "trial_ids"]]
        .assign(trial_id=table["trial_ids"].str.split())
        .explode("trial_id")
    )
    trials = trials.drop_duplicates("trial_id").drop(columns="trial_ids")
    return trials.merge(select_completed(rows)[["trial_id", "attempt"]], on="trial_id")


def _frontier_words(table: pd.DataFrame, trade_offs: Sequence[Frontier]) -> str:
    return "; ".join(
        f"non-dominated in {axis_name(frontier.gain)} against {axis_name(frontier.cost)} are "
        + (", ".join(f"({name})" for name in table.loc[frontier.mask, "configuration"]) or "none")
        for frontier in trade_offs
    )
