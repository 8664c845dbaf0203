"""Rows as plain text: a table with its own columns for each section."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from famba_core.bench.rows import BenchRow


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table."""

    title: str
    text: Callable[[BenchRow], str]
    left: bool = False


def _number(field: str, digits: int, title: str) -> Column:
    """Return a column of numbers with that many digits after the point."""

    def text(row: BenchRow) -> str:
        value = getattr(row, field)
        return "-" if value is None else f"{value:,.{digits}f}"

    return Column(title=title, text=text)


def _spread(row: BenchRow) -> str:
    return "-" if row.q25_ms is None or row.q75_ms is None else f"{row.q25_ms:,.1f}-{row.q75_ms:,.1f}"


NAME = Column(title="", text=lambda row: row.name + (" (peer)" if row.peer else ""), left=True)
BACKEND = Column(title="backend", text=lambda row: row.backend + (" (peer)" if row.peer else ""), left=True)
PRECISION = Column(title="precision", text=lambda row: row.precision, left=True)
SIZES = (_number("batch", 0, "batch"), _number("tokens", 0, "tokens"))
TIME = (
    _number("median_ms", 2, "median ms"),
    Column(title="quartiles", text=_spread),
    _number("n", 0, "n"),
    _number("images_per_s", 1, "images/s"),
)
PEAK = _number("peak_mib", 0, "peak MiB")
COMPARED = (NAME, PRECISION, *SIZES, *TIME, _number("time_ratio", 2, "x time of best"), PEAK)
GROWN = (NAME, BACKEND, PRECISION, *TIME, _number("time_ratio", 2, "x time of best"), PEAK)
COLUMNS: dict[str, tuple[Column, ...]] = {
    "scan": COMPARED,
    "mixer": COMPARED,
    "model": COMPARED,
    "step": (NAME, PRECISION, *SIZES[:1], *TIME, PEAK, _number("saved_bytes_per_token", 0, "saved B/token/layer")),
    "growth-tokens": GROWN,
    "growth-batch": GROWN,
    "growth-depth": (NAME, PRECISION, *TIME, PEAK),
}
RATIOS = (
    NAME,
    PRECISION,
    _number("token_ratio", 3, "tokens"),
    _number("time_ratio", 3, "time"),
    _number("predicted_time_ratio", 3, "predicted"),
    _number("paper_time_ratio", 3, "paper"),
    _number("memory_ratio", 3, "memory"),
    _number("predicted_memory_ratio", 3, "predicted"),
    _number("paper_memory_ratio", 3, "paper"),
    _number("saved_ratio", 3, "saved"),
    _number("fusion_pct", 1, "fusion %"),
)
LIMITS = (
    Column(title="", text=lambda row: f"{row.section}: {row.name}", left=True),
    PRECISION,
    _number("batch", 0, "batch"),
    _number("median_ms", 2, "median ms"),
    _number("limit_matmul_ms", 2, "matmul ms"),
    _number("limit_vector_ms", 2, "vector ms"),
    _number("limit_memory_ms", 2, "memory ms"),
    _number("limit_pct", 1, "% of limit"),
    _number("limit_serial_pct", 1, "% of serial limit"),
)
TITLES = {
    "scan": "Selective scan, both directions, forward and backward",
    "mixer": "One layer (norm, mixer, residual), forward and backward",
    "model": "Whole model, forward and backward",
    "step": "Training step: augmentation, forward, backward, optimizer, moving average",
    "growth-tokens": "Growth by tokens: one layer, forward and backward",
    "growth-batch": "Growth by batch: one layer, forward and backward",
    "growth-depth": "Growth by depth: whole model, forward and backward",
    "roofline": "Share of the device's limits",
}


def section_text(section: str, rows: Sequence[BenchRow]) -> str:
    """Return the tables of a section, then a line for each row that was not measured. Empty without rows."""
    measured = [row for row in rows if row.status == "measured"]
    blocks = []
    if measured and section in COLUMNS:
        blocks.append(_table(COLUMNS[section], measured))
    if measured and section == "step":
        blocks.append("Ratios to no fusion:\n" + _table(RATIOS, measured))
    if measured and section == "roofline":
        blocks.append(_table(LIMITS, [row for row in measured if row.limit_pct is not None]))
    blocks += [f"{row.status}: {row.name} ({row.backend}, {row.precision}): {row.note}" for row in rows if row.note]
    return "\n".join((TITLES[section], *blocks, "")) if blocks else ""


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
