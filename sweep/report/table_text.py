"""A finished table -> Markdown, LaTeX, CSV, and the columns that an HTML page shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from sweep.text import clock

MISSING = "–"
MOST_DECIMALS = 6


@dataclass(frozen=True)
class Column:
    """One printed column, under a heading that it shares with its neighbours of the same group."""

    group: str  # "" for a column that stands alone
    heading: str
    cells: tuple[str, ...]
    numeric: bool = True

    @property
    def full_heading(self) -> str:
        return f"{self.group} {self.heading}".strip()


def columns(table: pd.DataFrame) -> list[Column]:
    """The printed columns of a table from `tables.build_table`; what says nothing in this table is left out."""
    shown = [
        _labels(table, "backbone", "Backbone", only_if=table["backbone"].nunique() > 1),
        _labels(table, "strategy", "Strategy"),
        *(
            _labels(table, name, heading, only_if=not table[name].isna().all())
            for name, heading in (("start_layer", "Start layer"), ("stop_layer", "Stop layer"), ("r", "r"))
        ),
        _labels(table, "order", "Order", only_if=table["order"].nunique() > 1),
        _labels(table, "weighting", "Weighting", only_if=table["weighting"].nunique() > 1),
        _labels(table, "reduced_tokens", "Tokens removed"),
        *(
            _numbers(table, *column)
            for column in (
                ("Top-1 (%)", "best", "top1_best_pct", percent),
                ("Top-1 (%)", "last", "top1_pct", percent),
                ("Top-1 (%)", "EMA", "top1_ema_pct", percent),
                ("Top-1 (%)", "paper", "published_top1_pct", percent),
                ("Top-5 (%)", "last", "top5_pct", percent),
                ("Top-5 (%)", "paper", "published_top5_pct", percent),
                ("Training time", "here", "train_time_s", duration),
                ("Training time", "ratio", "train_time_ratio", ratio),
                ("Training time", "paper", "published_train_time_s", duration),
                ("Training time", "paper ratio", "published_train_time_ratio", ratio),
                ("Peak memory (MiB)", "here", "peak_memory_mib", mebibytes),
                ("Peak memory (MiB)", "ratio", "peak_memory_ratio", ratio),
                ("Peak memory (MiB)", "paper", "published_peak_memory_mib", mebibytes),
                ("Peak memory (MiB)", "paper ratio", "published_peak_memory_ratio", ratio),
            )
        ),
        _notes(table),
    ]
    return [column for column in shown if column is not None]


def heading_groups(shown: list[Column]) -> list[tuple[str, int]]:
    """Shared headings and how many columns each spans, from left to right."""
    return [(group, len(list(members))) for group, members in groupby(shown, lambda column: column.group)]


def to_markdown(table: pd.DataFrame, caption: str) -> str:
    shown = columns(table)
    lines = [
        [column.full_heading for column in shown],
        ["---:" if column.numeric else "---" for column in shown],
        *zip(*(column.cells for column in shown), strict=True),
    ]
    body = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
    return f"{body}\n\n{caption}\n"


def to_latex(table: pd.DataFrame, caption: str, label: str) -> str:
    """A `table*` as wide as the text, for a document that loads booktabs and graphicx."""
    shown = columns(table)
    groups, rules, first = [], [], 1
    for group, span in heading_groups(shown):
        groups.append(f"\\multicolumn{{{span}}}{{c}}{{{_tex(group)}}}")
        if group:
            rules.append(f"\\cmidrule(lr){{{first}-{first + span - 1}}}")
        first += span
    lines = [" & ".join(map(_tex, cells)) + r" \\" for cells in zip(*(column.cells for column in shown), strict=True)]
    return (
        "\n".join(
            [
                r"\begin{table*}[t]",
                r"\setlength{\tabcolsep}{3pt}",
                f"\\caption{{{_tex(caption)}}}",
                f"\\label{{{label}}}",
                r"\resizebox{\textwidth}{!}{%",
                f"\\begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in shown)}}}",
                r"\toprule",
                " & ".join(groups) + r" \\",
                " ".join(rules),
                " & ".join(_tex_heading(column.heading) for column in shown) + r" \\",
                r"\midrule",
                *lines,
                r"\bottomrule",
                r"\end{tabular}}",
                r"\end{table*}",
            ]
        )
        + "\n"
    )


def to_csv(table: pd.DataFrame) -> str:
    """Every column of the table, in full precision; an empty field is a missing value."""
    return table.to_csv(index=False)


def in_few_digits(values: Iterable[float]) -> list[str]:
    """Numbers of one column, whatever their magnitude: equally many decimals, three digits or more of the smallest."""
    values = list(values)
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    decimals = max(0, 2 - math.floor(math.log10(min(sizes)))) if sizes else 0
    style = f",.{decimals}f" if decimals <= MOST_DECIMALS else ".2e"
    return [MISSING if math.isnan(value) else format(value, style) for value in values]


def percent(value: float, spread: float | None = None) -> str:
    return f"{value:.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def ratio(value: float, spread: float | None = None) -> str:
    return f"{value:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


def mebibytes(value: float, spread: float | None = None) -> str:
    digits = 0 if value >= 100 else 1
    return f"{value:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def duration(value: float, spread: float | None = None) -> str:
    """Seconds as "43.2 s", from ten minutes on as h:mm:ss."""
    if value < 600:
        return f"{value:.1f}" + ("" if spread is None else f" ± {spread:.1f}") + " s"
    return clock(value, with_hours=True) + ("" if spread is None else f" ± {clock(spread, with_hours=True)}")


def _labels(table: pd.DataFrame, name: str, heading: str, only_if: object = True) -> Column | None:
    cells = tuple(MISSING if pd.isna(value) else str(value) for value in table[name])
    return Column("", heading, cells, numeric=pd.api.types.is_numeric_dtype(table[name])) if only_if else None


def _numbers(table: pd.DataFrame, group: str, heading: str, name: str, text: Callable[..., str]) -> Column | None:
    if name not in table:
        return None
    spreads = table.get(f"{name}_std", pd.Series(float("nan"), table.index))
    return Column(
        group,
        heading,
        tuple(
            MISSING if pd.isna(value) else text(value, None if pd.isna(spread) else spread)
            for value, spread in zip(table[name], spreads, strict=True)
        ),
    )


def _notes(table: pd.DataFrame) -> Column | None:
    counts = zip(table["seeds_planned"], table["seeds_measured"], table["seeds_failed"], strict=True)
    bounds = zip(table["feasible"], table["breaks"], strict=True) if "breaks" in table else [(True, "")] * len(table)
    notes = tuple(
        ", ".join([*_seed_words(*count), *_constraint_words(count[1], *bound)])
        for count, bound in zip(counts, bounds, strict=True)
    )
    return Column("", "Note", notes, numeric=False) if any(notes) else None


def _seed_words(planned: int, measured: int, failed: int) -> list[str]:
    if planned == 1:
        return [] if measured else ["failed" if failed else "not measured"]
    words = [f"{measured} of {planned} seeds"] if measured < planned else []
    return words + ([f"{failed} failed"] if failed else [])


def _constraint_words(measured: int, feasible: bool | None, breaks: str) -> list[str]:
    if breaks:
        return [f"breaks {breaks}"]
    return ["constraints not known to be met"] if measured and pd.isna(feasible) else []


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


def _tex(text: str) -> str:
    return text.replace("<=", "≤").replace(">=", "≥").translate(_TEX)


def _tex_heading(text: str) -> str:
    """One word below the other: the columns are narrow."""
    return r"\shortstack[b]{" + r" \\ ".join(map(_tex, text.split())) + "}"
