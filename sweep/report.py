"""Writes the report of a study: everything drawn from its plan and its stored rows, as files and as one page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from sweep import plots, table_text, tables
from sweep.figures import curves
from sweep.figures.style import axis_name, render
from sweep.pareto import REFERENCE_MARGIN, Frontier, frontiers, non_dominated
from sweep.plan import Plan, baselines, plan_from_json
from sweep.store import completed, outcomes, read_epochs, read_plan_json, read_rows, write_atomically


@dataclass(frozen=True, kw_only=True)
class Report:
    """A written report: where it lies, and what its table says."""

    index: Path  # the page that holds all of it
    table: Path  # the table as Markdown
    files: tuple[Path, ...]  # every file, these two included
    columns: list[table_text.Column]
    caption: str


@dataclass(frozen=True, kw_only=True)
class _Picture:
    name: str
    heading: str
    alt: str
    figure: Figure


def write_report(folder: Path) -> Report:
    """Draw the tables and figures of a study into its folder `report`, replacing those of the same names.

    Parts that cannot be read are left out and counted on the page; what is stored of trials that the plan no longer
    has is left out. Raises UserError if the folder holds no plan.
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
        "index.html": _page(
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
    report = folder / "report"
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
    on_frontier["non_dominated"] = non_dominated(table[list(objectives)].to_numpy(float), list(objectives.values()))
    listed = table[["configuration", *tables.LABELS, *objectives]].assign(**on_frontier)
    first, direction = next(iter(objectives.items()))
    return listed[listed[list(on_frontier)].any(axis=1)].sort_values(first, ascending=direction == "min")


def _pictures(
    plan: Plan, rows: pd.DataFrame, epochs: pd.DataFrame, table: pd.DataFrame, trade_offs: list[Frontier]
) -> list[_Picture]:
    """The figures that this study has the rows for."""
    title = f"{plan.study}, profile {plan.profile}, on {' and '.join(tables.devices(rows))}"
    curve_rows = _curves_of_completed(rows, epochs, table)
    drawn: list[tuple[str, str, str, Figure | None]] = [
        (
            "frontier",
            "Accuracy against cost",
            f"Scatter plot of {len(table)} configurations: {_frontier_words(table, trade_offs)}",
            plots.frontier_figure(table, trade_offs, title) if any(f.mask.any() for f in trade_offs) else None,
        ),
        (
            "starting_layer",
            "Starting layer",
            "Accuracy, training time ratio and peak memory ratio over the first "
            "fusing layer, with the numbers of the table",
            curves.starting_layer_figure(table, title),
        ),
        (
            "r_curve",
            "Tokens removed per layer",
            "Accuracy, training time ratio and peak memory ratio over r, with the numbers of the table",
            curves.r_curve_figure(table, title),
        ),
        (
            "learning_curves",
            "Learning curves",
            "Training loss and top-1 accuracy over the epochs, a line for each completed trial",
            curves.learning_curves_figure(curve_rows, title) if len(curve_rows) else None,
        ),
    ]
    return [
        _Picture(name=name, heading=heading, alt=alt, figure=figure)
        for name, heading, alt, figure in drawn
        if figure is not None
    ]


def _curves_of_completed(rows: pd.DataFrame, epochs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The epochs behind the table, in its order, each with its configuration, the first that asked for it."""
    trials = (
        table[["configuration", "strategy", "trial_ids"]]
        .assign(trial_id=table["trial_ids"].str.split())
        .explode("trial_id")
    )
    trials = trials.drop_duplicates("trial_id").drop(columns="trial_ids")
    attempts = trials.merge(completed(rows)[["trial_id", "attempt"]], on="trial_id")
    return attempts.merge(epochs, on=["trial_id", "attempt"])


def _frontier_words(table: pd.DataFrame, trade_offs: Sequence[Frontier]) -> str:
    return "; ".join(
        f"non-dominated in {axis_name(frontier.gain)} against {axis_name(frontier.cost)} are "
        + ", ".join(f"({configuration})" for configuration in table.loc[frontier.mask, "configuration"])
        for frontier in trade_offs
    )


def _page(
    plan: Plan,
    rows: pd.DataFrame,
    table: pd.DataFrame,
    caption: str,
    listed: pd.DataFrame,
    trade_offs: Sequence[Frontier],
    pictures: Sequence[tuple[_Picture, str]],
    damaged: Sequence[Path],
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sweep"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    done = completed(rows)
    ended, sources = outcomes(rows).reset_index(), done["source"].dropna()
    failed = ended[ended["status"] == "failed"]

    def distinct(column: str) -> list[str]:
        return sorted(done[column].dropna().unique())

    return environment.get_template("index.html").render(
        plan=plan,
        trial=plan.trials[0],
        caption=caption,
        axis_name=axis_name,
        margin=REFERENCE_MARGIN,
        counts={
            "planned": len(baselines(plan)) + plan.search.trials if plan.search else len(plan.trials),
            "completed": len(done),
            "failed": len(failed),
            "pruned": int((ended["status"] == "pruned").sum()),
            "copied": len(sources),
        },
        studies_copied=sorted({source.rpartition("/")[0] for source in sources}),
        failures=failed[["trial_id", "attempt", "error"]].to_dict("records"),
        damaged=damaged,
        devices=tables.devices(rows),
        torch_versions=distinct("torch_version"),
        commits=distinct("git_commit"),
        memory=distinct("peak_memory_source"),
        isolated=(table["train_time_source"] == "isolated").all(),
        columns=table_text.columns(table),
        heading_groups=table_text.heading_groups,
        listed=listed.to_dict("records"),
        objectives=list(plan.objectives),
        trade_offs=trade_offs,
        pictures=pictures,
    )
