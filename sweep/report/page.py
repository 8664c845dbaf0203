"""The page of a report: everything of it in one HTML text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from sweep.plan.model import Plan, candidate_ids
from sweep.report import table_text, tables
from sweep.report.figures.style import axis_name
from sweep.report.pareto import REFERENCE_MARGIN, Frontier
from sweep.store.outcomes import select_completed, select_outcomes
from sweep.text import plural


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure of a report, and what stands around it."""

    name: str
    heading: str
    alt: str
    note: str  # what it leaves out; "" where that is nothing
    figure: Figure


def page(
    plan: Plan,
    rows: pd.DataFrame,
    table: pd.DataFrame,
    caption: str,
    listed: pd.DataFrame,
    trade_offs: Sequence[Frontier],
    pictures: Sequence[tuple[Picture, str]],
    damaged: Sequence[Path],
) -> str:
    """The text of a page that stands alone.

    Args:
        rows: of the plan's trials.
        table: from `tables.build_table`, with its caption.
        listed: the frontier, from `report.frontier_rows`.
        pictures: each with its SVG in base64.
        damaged: files that could not be read, relative to the study.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sweep.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    done = select_completed(rows)
    ended, sources = select_outcomes(rows).reset_index(), done["source"].dropna()
    failed = ended[ended["status"] == "failed"]

    def distinct(column: str) -> list[str]:
        return sorted(done[column].dropna().unique())

    return environment.get_template("index.html").render(
        plan=plan,
        trial=plan.trials[0],
        caption=caption,
        axis_name=axis_name,
        plural=plural,
        bounds_time=any(constraint.column == "train_time_s" for constraint in plan.constraints),
        margin=REFERENCE_MARGIN,
        counts={
            "planned": _planned_number(plan),
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
        listed=listed.assign(**_cells(listed, plan.objectives)).to_dict("records"),
        number=lambda value: table_text.in_few_digits([value])[0],
        objectives=list(plan.objectives),
        trade_offs=trade_offs,
        pictures=pictures,
    )


def _planned_number(plan: Plan) -> int:
    """Of trials that there will be; of a search, what it may choose from counts as often as it chooses."""
    possible = len(candidate_ids(plan.cases))
    return len(plan.trials) - possible + plan.search.tries(possible) if plan.search else len(plan.trials)


def _cells(listed: pd.DataFrame, objectives: Iterable[str]) -> dict[str, list[str]]:
    """The objectives as text: percentages as in the table, others by their magnitude."""
    return {
        name: [table_text.MISSING if pd.isna(value) else table_text.percent(value) for value in listed[name]]
        if name.endswith("_pct")
        else table_text.in_few_digits(listed[name].astype(float))
        for name in objectives
    }
