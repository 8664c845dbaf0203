"""The benchmark as one figure: implementations, strategies beside prediction and paper, growth, limits."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from famba_core.bench.rows import BenchRow
from famba_core.files import write_atomically
from famba_core.palette import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "D", "v", "P", "X")


def write_plot(rows: Sequence[BenchRow], folder: Path) -> None:
    """bench.svg and bench.png, of the panels that have rows. Raises ImportError without matplotlib, and OSError."""
    figure = draw(rows)
    if figure is None:
        return
    from matplotlib import rc_context

    for kind in ("svg", "png"):
        sink = io.BytesIO()
        with rc_context({"svg.hashsalt": "famba-bench"}):
            figure.savefig(sink, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
        write_atomically(folder / f"bench.{kind}", sink.getbuffer())


def draw(rows: Sequence[BenchRow]) -> Any:
    """The figure, or None where no panel has rows."""
    from matplotlib.figure import Figure

    measured = [row for row in rows if row.status == "measured"]
    panels = [(title, paint, found) for title, section, paint in PANELS if (found := _of(measured, section))]
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(6.5 * columns, 4.2 * lines), layout="constrained")
    figure.suptitle(f"{measured[0].backbone} on {measured[0].device}", fontsize=12)
    for i, (title, paint, found) in enumerate(panels, start=1):
        axes = figure.add_subplot(lines, columns, i)
        axes.set_title(title, fontsize=10)
        axes.grid(color="#e3e3e3", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        paint(axes, found)
    return figure


def _of(rows: Sequence[BenchRow], section: str) -> list[BenchRow]:
    return [row for row in rows if row.section == section]


def _bars(axes: Axes, rows: Sequence[BenchRow]) -> None:
    """Images per second of each implementation."""
    names = [f"{row.name}\n{row.precision}\nbatch {row.batch}" for row in rows]
    speeds = [row.images_per_s or 0.0 for row in rows]
    bars = axes.bar(range(len(rows)), speeds, color=[PALETTE[1] if row.peer else PALETTE[0] for row in rows])
    axes.bar_label(bars, labels=[f"{speed:,.1f}" for speed in speeds], fontsize=7)
    axes.set_xticks(range(len(rows)), names, fontsize=7)
    axes.set_ylabel("Images/s (peers in orange)")


def _ratios(axes: Axes, rows: Sequence[BenchRow]) -> None:
    """Time and memory ratios of each strategy: measured, predicted, published, and the share of tokens left."""
    fused = [row for row in rows if not row.peer and row.ratio_to and not row.recompute]
    if not fused:
        return
    kinds: tuple[tuple[str, str, int, str], ...] = (
        ("token_ratio", "tokens", 3, "_"),
        ("time_ratio", "time, measured", 0, "o"),
        ("predicted_time_ratio", "time, predicted", 0, "x"),
        ("paper_time_ratio", "time, paper", 0, "^"),
        ("memory_ratio", "memory, measured", 1, "o"),
        ("predicted_memory_ratio", "memory, predicted", 1, "x"),
        ("paper_memory_ratio", "memory, paper", 1, "^"),
    )
    for field, label, colour, marker in kinds:
        points = [(x, getattr(row, field)) for x, row in enumerate(fused) if getattr(row, field) is not None]
        if points:
            shift = {0: -0.12, 1: 0.12}.get(colour, 0.0)
            axes.scatter(
                [x + shift for x, _ in points],
                [y for _, y in points],
                color=PALETTE[colour],
                marker=marker,
                s=300 if marker == "_" else 36,
                label=label,
            )
    names = [f"{row.name}, {row.precision}" for row in fused]
    axes.set_xticks(range(len(fused)), names, fontsize=7, rotation=25, ha="right", rotation_mode="anchor")
    axes.set_ylabel("Ratio to no fusion")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)


def _lines(x_field: str, x_name: str, y_field: str, y_name: str) -> Callable[[Axes, Sequence[BenchRow]], None]:
    def paint(axes: Axes, rows: Sequence[BenchRow]) -> None:
        from matplotlib.ticker import LogLocator

        series = dict.fromkeys((row.backend, row.precision) for row in rows)
        for i, (backend, precision) in enumerate(series):
            line = [row for row in rows if (row.backend, row.precision) == (backend, precision)]
            axes.plot(
                [getattr(row, x_field) for row in line],
                [getattr(row, y_field) for row in line],
                color=PALETTE[i % len(PALETTE)],
                marker=MARKERS[i % len(MARKERS)],
                markersize=4,
                label=f"{backend}, {precision}",
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        places = sorted({getattr(row, x_field) for row in rows})
        axes.set_xticks(places, [str(place) for place in places])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)
        axes.legend(fontsize=7)

    return paint


PANELS: tuple[tuple[str, str, Callable[[Axes, Sequence[BenchRow]], None]], ...] = (
    ("Selective scan", "scan", _bars),
    ("One layer", "mixer", _bars),
    ("Whole model", "model", _bars),
    ("Training step by strategy", "step", _ratios),
    ("One layer by tokens", "growth-tokens", _lines("tokens", "Tokens", "median_ms", "Time (ms)")),
    ("One layer by batch", "growth-batch", _lines("batch", "Images", "images_per_s", "Images/s")),
    ("Whole model by depth", "growth-depth", _lines("layers", "Layers", "median_ms", "Time (ms)")),
)
