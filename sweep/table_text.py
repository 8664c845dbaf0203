"""A finished table -> Markdown, LaTeX, CSV, and the columns that an HTML page shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

MISSING = "–"


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
    return _clock(value) + ("" if spread is None else f" ± {_clock(spread)}")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


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
    notes = tuple(_note(*count) for count in counts)
    return Column("", "Note", notes, numeric=False) if any(notes) else None


def _note(planned: int, measured: int, failed: int) -> str:
    if planned == 1:
        return "" if measured else "failed" if failed else "not measured"
    words = [f"{measured} of {planned} seeds"] if measured < planned else []
    return ", ".join(words + ([f"{failed} failed"] if failed else []))


_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        MISSING: "--",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


def _tex(text: str) -> str:
    return text.translate(_TEX)


def _tex_heading(text: str) -> str:
    """One word below the other: the columns are narrow."""
    return r"\shortstack[b]{" + r" \\ ".join(map(_tex, text.split())) + "}"
