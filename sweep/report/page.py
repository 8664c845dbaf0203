"""The page of a report: everything that it shows in one HTML text."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import jinja2
import pandas as pd

from sweep.report import table_text
from sweep.report.figures.style import axis_name
from sweep.report.pareto import REFERENCE_MARGIN, Frontier
from sweep.report.pictures import Picture
from sweep.report.study_data import StudyData
from sweep.report.tables import r_is_scaled
from sweep.text import plural


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportContent:
    """Everything that a report shows."""

    data: StudyData
    table: pd.DataFrame  # from `build_table`
    columns: list[table_text.Column]  # of the table, as it is printed
    caption: str
    trade_offs: list[Frontier]
    frontier: pd.DataFrame  # from `frontier_rows`
    pictures: list[Picture]


def render_page(content: ReportContent, figures: Mapping[str, bytes]) -> str:
    """Return the page of a report, which needs no other file; `figures` holds the SVG files by name."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sweep.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    data, plan = content.data, content.data.plan
    copied = data.completed["source"].dropna()
    failed = data.outcomes[data.outcomes["status"] == "failed"].reset_index()
    return environment.get_template("index.html").render(
        content=content,
        data=data,
        plan=plan,
        image=lambda picture: base64.b64encode(figures[f"{picture.name}.svg"]).decode(),
        copied=len(copied),
        studies_copied=sorted({source.rpartition("/")[0] for source in copied}),
        failures=failed[["trial_id", "attempt", "error"]].to_dict("records"),
        frontier_lines=_with_text(content.frontier, list(plan.objectives)).to_dict("records"),
        margin=REFERENCE_MARGIN,
        axis_name=axis_name,
        heading_groups=table_text.heading_groups,
        number=lambda value: table_text.in_few_digits([value])[0],
        plural=plural,
        r_is_scaled=r_is_scaled,
    )


def _with_text(frontier: pd.DataFrame, objectives: list[str]) -> pd.DataFrame:
    """Return the frontier's lines with the objectives as text: percentages as in the table, others by their size."""

    def text(column: str) -> list[str]:
        if not column.endswith("_pct"):
            return table_text.in_few_digits(frontier[column].astype(float))
        return [table_text.MISSING if pd.isna(value) else table_text.percent(value) for value in frontier[column]]

    return frontier.assign(**{column: text(column) for column in objectives})
