"""Writes the report of a study: tables and figures as files, and all of them on one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from famba_core.figures import render
from famba_core.files import write_atomically
from sweep.errors import as_user_error
from sweep.report import table_text
from sweep.report.page import ReportContent, render_page
from sweep.report.pareto import frontier_rows, frontiers
from sweep.report.pictures import draw_pictures
from sweep.report.study_data import StudyData
from sweep.report.tables import build_table, table_caption
from sweep.store.layout import StudyPaths


@dataclass(frozen=True, kw_only=True)
class Report:
    """A written report: where it is, and its table."""

    index: Path  # the page, which shows everything
    table: Path  # the table as Markdown
    files: tuple[Path, ...]  # all files, these two included
    content: ReportContent

    @property
    def caption(self) -> str:
        return self.content.caption


def write_report(folder: Path) -> Report:
    """Write the tables and figures of the study in `folder` to its folder `report`, over those of an earlier report.

    Stored files that cannot be read are left out and listed on the page. Raises UserError if the folder holds no plan,
    or if the report cannot be written.
    """
    data = StudyData.read(folder)
    table, objectives = build_table(data), data.plan.objectives
    trade_offs = frontiers(table, objectives)
    content = ReportContent(
        data=data,
        table=table,
        columns=table_text.printed_columns(table),
        caption=table_caption(data, table),
        trade_offs=trade_offs,
        frontier=frontier_rows(table, objectives, trade_offs),
        pictures=draw_pictures(data, table, trade_offs),
    )
    name = f"table{data.plan.paper_table or ''}"
    files = _files(content, name)
    report = StudyPaths(folder).report
    with as_user_error(report):
        report.mkdir(exist_ok=True)
        for file, contents in files.items():
            write_atomically(report / file, contents)
    return Report(
        index=report / "index.html",
        table=report / f"{name}.md",
        files=tuple(report / file for file in files),
        content=content,
    )


def _files(content: ReportContent, table: str) -> dict[str, bytes]:
    """Return the report's files by name; `table` is the name of the table's files, without suffix."""
    figures: dict[str, bytes] = {}
    for picture in content.pictures:
        figures |= {f"{picture.name}.{kind}": render(picture.figure, kind) for kind in ("svg", "png")}
    texts = {
        f"{table}.md": table_text.to_markdown(content.columns, content.caption),
        f"{table}.tex": table_text.to_latex(content.columns, content.caption, f"tab:{content.data.plan.study}"),
        f"{table}.csv": content.table.to_csv(index=False),  # in full precision; an empty field is a missing value
        "frontier.csv": content.frontier.to_csv(index=False),
        "index.html": render_page(content, figures),
    }
    return figures | {name: text.encode() for name, text in texts.items()}
