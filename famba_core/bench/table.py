"""Rows as plain text: a table with its own columns for each section."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from famba_core.bench.rows import BenchRow


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table."""

    title: str
    text: Callable[[BenchRow], str]
    left: bool = False


def _numbers(digits: int, **titles: str) -> tuple[Column, ...]:
    """Return a column of numbers with that many digits after the point for each field=title."""
    return tuple(
        Column(title=title, text=functools.partial(_number, field=field, digits=digits))
        for field, title in titles.items()
    )


def _number(row: BenchRow, *, field: str, digits: int) -> str:
    value = getattr(row, field)
    return "-" if value is None else f"{value:,.{digits}f}"


def _spread(row: BenchRow) -> str:
    return "-" if row.q25_ms is None or row.q75_ms is None else f"{row.q25_ms:,.1f}-{row.q75_ms:,.1f}"


NAME = Column(title="", text=lambda row: row.name + (" (peer)" if row.peer else ""), left=True)
BACKEND = Column(title="backend", text=lambda row: row.backend + (" (peer)" if row.peer else ""), left=True)
PRECISION = Column(title="precision", text=lambda row: row.precision, left=True)
TIME = (
    *_numbers(2, median_ms="median ms"),
    Column(title="quartiles", text=_spread),
    *_numbers(0, n="n"),
    *_numbers(1, images_per_s="images/s"),
)
PEAK = _numbers(0, peak_mib="peak MiB")
COMPARED = (*TIME, *_numbers(2, time_ratio="x time of best"), *PEAK)
SIZED = (NAME, PRECISION, *_numbers(0, batch="batch", tokens="tokens"), *COMPARED)
STEP = (NAME, PRECISION, *_numbers(0, batch="batch"), *TIME, *PEAK)
RATIOS = (
    NAME,
    PRECISION,
    *_numbers(3, token_ratio="tokens", time_ratio="time", predicted_time_ratio="predicted", paper_time_ratio="paper"),
    *_numbers(3, memory_ratio="memory", predicted_memory_ratio="predicted", paper_memory_ratio="paper"),
    *_numbers(3, saved_ratio="saved"),
    *_numbers(1, fusion_pct="fusion %"),
)
LIMITS = (
    Column(title="", text=lambda row: f"{row.section}: {row.name}", left=True),
    PRECISION,
    *_numbers(0, batch="batch"),
    *_numbers(2, median_ms="median ms", limit_matmul_ms="matmul ms", limit_vector_ms="vector ms"),
    *_numbers(2, limit_memory_ms="memory ms"),
    *_numbers(1, limit_pct="% of limit", limit_serial_pct="% of serial limit"),
)
# section -> title and columns
TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "scan": ("Selective scan, both directions, forward and backward", SIZED),
    "mixer": ("One layer (norm, mixer, residual), forward and backward", SIZED),
    "model": ("Whole model, forward and backward", SIZED),
    "step": (
        "Training step: augmentation, forward, backward, optimizer, moving average",
        (*STEP, *_numbers(0, saved_bytes_per_token="saved B/token/layer")),
    ),
    "growth-tokens": ("Growth by tokens: one layer, forward and backward", (NAME, BACKEND, PRECISION, *COMPARED)),
    "growth-batch": ("Growth by batch: one layer, forward and backward", (NAME, BACKEND, PRECISION, *COMPARED)),
    "growth-depth": ("Growth by depth: whole model, forward and backward", (NAME, PRECISION, *TIME, *PEAK)),
    "roofline": ("Share of the device's limits", LIMITS),
}


def section_text(section: str, rows: Sequence[BenchRow]) -> str:
    """Return the tables of a section, then a line for each row that was not measured. Empty without rows."""
    title, columns = TABLES[section]
    measured = [row for row in rows if row.status == "measured"]
    blocks = [_table(columns, measured)] if measured else []
    if measured and section == "step":
        blocks.append("Ratios to no fusion:\n" + _table(RATIOS, measured))
    blocks += [f"{row.status}: {row.name} ({row.backend}, {row.precision}): {row.note}" for row in rows if row.note]
    return "\n".join((title, *blocks, "")) if blocks else ""


def _table(columns: Sequence[Column], rows: Sequence[BenchRow]) -> str:
    cells = [[column.title for column in columns], *([column.text(row) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = []
    for line in cells:
        aligned = (
            text.ljust(width) if column.left else text.rjust(width)
            for column, text, width in zip(columns, line, widths, strict=True)
        )
        lines.append("  " + "  ".join(aligned).rstrip())
    return "\n".join(lines)
