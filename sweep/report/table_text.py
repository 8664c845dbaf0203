"""A finished table as text: its printed columns, and the table as Markdown, LaTeX and CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from sweep.report.tables import r_is_scaled
from sweep.text import clock

MISSING = "–"
MOST_DECIMALS = 6


@dataclass(frozen=True)
class Column:
    """One printed column, under a heading that neighbours of the same group share."""

    group: str  # "" for a column that stands alone
    heading: str
    cells: tuple[str, ...]
    numeric: bool = True
    short: str = ""  # heading on a terminal
    rank: int = 0  # on a terminal: 0 is always shown; of the others, the highest drops out first

    @property
    def full_heading(self) -> str:
        return f"{self.group} {self.heading}".strip()


def printed_columns(table: pd.DataFrame) -> list[Column]:
    """Return the printed columns of a table from `build_table`, without those that say nothing in this table."""
    r_heading = "r (paper)" if r_is_scaled(table) else "r"
    columns: list[tuple[str, str, str, Callable[..., str], str, int]] = [
        ("", "Backbone", "backbone", str, "backbone", 0),
        ("", "Strategy", "strategy", str, "strategy", 0),
        ("", "Start layer", "start_layer", str, "start", 0),
        ("", "Stop layer", "stop_layer", str, "stop", 0),
        ("", r_heading, "r", str, r_heading, 0),
        ("", "In each layer", "removed_per_layer", str, "in each layer", 9),
        ("", "Order", "order", str, "order", 0),
        ("", "Weighting", "weighting", str, "weight", 0),
        ("", "Tokens removed", "reduced_tokens", str, "tokens removed", 9),
        ("Top-1 (%)", "best", "top1_best_pct", percent, "top-1 best", 0),
        ("Top-1 (%)", "last", "top1_pct", percent, "top-1 last", 8),
        ("Top-1 (%)", "EMA", "top1_ema_pct", percent, "top-1 EMA", 12),
        ("Top-1 (%)", "paper", "published_top1_pct", percent, "top-1 paper", 6),
        ("Top-5 (%)", "last", "top5_pct", percent, "top-5 last", 11),
        ("Top-5 (%)", "paper", "published_top5_pct", percent, "top-5 paper", 13),
        ("Training time", "here", "train_time_s", duration, "time", 4),
        ("Training time", "ratio", "train_time_ratio", ratio, "time ratio", 1),
        ("Training time", "paper", "published_train_time_s", duration, "time paper", 14),
        ("Training time", "paper ratio", "published_train_time_ratio", ratio, "time ratio paper", 7),
        ("Peak memory (MiB)", "here", "peak_memory_mib", mebibytes, "MiB", 5),
        ("Peak memory (MiB)", "ratio", "peak_memory_ratio", ratio, "MiB ratio", 2),
        ("Peak memory (MiB)", "paper", "published_peak_memory_mib", mebibytes, "MiB paper", 15),
        ("Peak memory (MiB)", "paper ratio", "published_peak_memory_ratio", ratio, "MiB ratio paper", 10),
    ]
    shown = [_column(table, *column) for column in columns if _says_something(table, column[2])]
    notes = tuple(", ".join(_seed_notes(line) + _constraint_notes(line)) for line in table.to_dict("records"))
    return [*shown, Column("", "Note", notes, numeric=False, short="note", rank=3)] if any(notes) else shown


def _says_something(table: pd.DataFrame, name: str) -> bool:
    if name in ("backbone", "order", "weighting"):
        return table[name].nunique() > 1
    if name in ("start_layer", "stop_layer", "r"):
        return bool(table[name].notna().any())
    if name == "removed_per_layer":  # beside r, if it says the same
        return r_is_scaled(table) or bool((table["r"].isna() & table[name].notna()).any())
    return name in table


def _column(
    table: pd.DataFrame, group: str, heading: str, name: str, text: Callable[..., str], short: str, rank: int
) -> Column:
    deviations = table.get(f"{name}_std", pd.Series(float("nan"), table.index))
    cells = tuple(
        MISSING if pd.isna(value) else text(value) if pd.isna(deviation) else text(value, deviation)
        for value, deviation in zip(table[name], deviations, strict=True)
    )
    numeric = pd.api.types.is_numeric_dtype(table[name]) or name == "removed_per_layer"
    return Column(group, heading, cells, numeric=numeric, short=short, rank=rank)


def heading_groups(columns: list[Column]) -> list[tuple[str, int]]:
    """Return the shared headings and how many columns each spans, from left to right."""
    return [(group, len(list(members))) for group, members in groupby(columns, lambda column: column.group)]


def to_markdown(columns: list[Column], caption: str) -> str:
    """Return the table with the caption below it."""
    lines = [
        [column.full_heading for column in columns],
        ["---:" if column.numeric else "---" for column in columns],
        *zip(*(column.cells for column in columns), strict=True),
    ]
    body = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
    return f"{body}\n\n{caption}\n"


def to_latex(columns: list[Column], caption: str, label: str) -> str:
    """Return a `table*` as wide as the text, for a document that loads booktabs and graphicx."""
    groups, rules, first = [], [], 1
    for group, span in heading_groups(columns):
        groups.append(f"\\multicolumn{{{span}}}{{c}}{{{_escape_tex(group)}}}")
        if group:
            rules.append(f"\\cmidrule(lr){{{first}-{first + span - 1}}}")
        first += span
    lines = [
        r"\begin{table*}[t]",
        r"\setlength{\tabcolsep}{3pt}",
        f"\\caption{{{_escape_tex(caption)}}}",
        f"\\label{{{label}}}",
        r"\resizebox{\textwidth}{!}{%",
        f"\\begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in columns)}}}",
        r"\toprule",
        " & ".join(groups) + r" \\",
        " ".join(rules),
        " & ".join(_tex_heading(column.heading) for column in columns) + r" \\",
        r"\midrule",
        *(
            " & ".join(map(_escape_tex, cells)) + r" \\"
            for cells in zip(*(column.cells for column in columns), strict=True)
        ),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def in_few_digits(values: Iterable[float]) -> list[str]:
    """Return the numbers of one column as text, with equally many decimals: at least three digits of the smallest."""
    values = list(values)
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    decimals = max(0, 2 - math.floor(math.log10(min(sizes)))) if sizes else 0
    style = f",.{decimals}f" if decimals <= MOST_DECIMALS else ".2e"
    return [MISSING if math.isnan(value) else format(value, style) for value in values]


def percent(value: float, deviation: float | None = None) -> str:
    return _with_deviation(value, deviation, 1)


def ratio(value: float) -> str:
    return f"{value:.3f}"


def mebibytes(value: float, deviation: float | None = None) -> str:
    return _with_deviation(value, deviation, 0 if value >= 100 else 1)


def duration(value: float, deviation: float | None = None) -> str:
    """Return seconds as "43.2 s", from ten minutes on as h:mm:ss."""
    if value < 600:
        return _with_deviation(value, deviation, 1) + " s"
    return clock(value, with_hours=True) + ("" if deviation is None else f" ± {clock(deviation, with_hours=True)}")


def _with_deviation(value: float, deviation: float | None, decimals: int) -> str:
    return f"{value:.{decimals}f}" + ("" if deviation is None else f" ± {deviation:.{decimals}f}")


def _seed_notes(line: dict[Hashable, Any]) -> list[str]:
    planned, measured, failed = line["seeds_planned"], line["seeds_measured"], line["seeds_failed"]
    if planned == 1:
        return [] if measured else ["failed" if failed else "not measured"]
    notes = [f"{measured} of {planned} seeds"] if measured < planned else []
    return [*notes, f"{failed} failed"] if failed else notes


def _constraint_notes(line: dict[Hashable, Any]) -> list[str]:
    if line.get("breaks"):
        bounds = line["breaks"].split(" and ")  # the caption says what they are
        return ["breaks " + " and ".join(dict.fromkeys(bound.split()[0] for bound in bounds))]
    unknown = line["seeds_measured"] and pd.isna(line.get("feasible", True))
    return ["constraints not known to be met"] if unknown else []


_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "<": r"$<$",
        ">": r"$>$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        MISSING: "--",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


def _escape_tex(text: str) -> str:
    return text.replace("<=", "≤").replace(">=", "≥").translate(_TEX)


def _tex_heading(text: str) -> str:
    """Return a heading with one word per line: the columns are narrow."""
    return r"\shortstack[b]{" + r" \\ ".join(map(_escape_tex, text.split())) + "}"
