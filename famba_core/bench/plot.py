"""One figure of the benchmark: implementations, strategies with prediction and paper, growth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from famba_core.bench.rows import BenchRow
from famba_core.figures import DPI, default_style, render
from famba_core.files import write_atomically
from famba_core.palette import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "D", "v", "P", "X")
# column, label, index of the colour, offset along x, marker, size of the marker
RATIOS = (
    ("token_ratio", "tokens", 3, 0.0, "_", 300),
    ("time_ratio", "time, measured", 0, -0.12, "o", 36),
    ("predicted_time_ratio", "time, predicted", 0, -0.12, "x", 36),
    ("paper_time_ratio", "time, paper", 0, -0.12, "^", 36),
    ("memory_ratio", "memory, measured", 1, 0.12, "o", 36),
    ("predicted_memory_ratio", "memory, predicted", 1, 0.12, "x", 36),
    ("paper_memory_ratio", "memory, paper", 1, 0.12, "^", 36),
)


def write_plot(rows: Sequence[BenchRow], folder: Path) -> None:
    """Write bench.svg and bench.png, if there are rows to draw. Raises ImportError without matplotlib, and OSError."""
    figure = draw(rows)
    if figure is None:
        return
    for kind in ("svg", "png"):
        write_atomically(folder / f"bench.{kind}", render(figure, kind))


@default_style()
def draw(rows: Sequence[BenchRow]) -> Any:
    """Return the figure, or None if no panel has rows."""
    from matplotlib.figure import Figure

    measured = [row for row in rows if row.status == "measured"]
    panels = [(*panel, [row for row in measured if row.section == panel[1]]) for panel in PANELS]
    panels = [panel for panel in panels if panel[-1]]
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(6.5 * columns, 4.2 * lines), dpi=DPI, layout="constrained")
    figure.suptitle(f"{measured[0].backbone} on {measured[0].device}", fontsize=12)
    for i, (title, _, paint, found) in enumerate(panels, start=1):
        axes = figure.add_subplot(lines, columns, i)
        axes.set_title(title, fontsize=10)
        axes.grid(color="#e3e3e3", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        paint(axes, found)
    return figure


def _bars(axes: Axes, rows: Sequence[BenchRow]) -> None:
    """Draw the images per second of each implementation."""
    names = [f"{row.name}\n{row.precision}\nbatch {row.batch}" for row in rows]
    speeds = [row.images_per_s or 0.0 for row in rows]
    bars = axes.bar(range(len(rows)), speeds, color=[PALETTE[1] if row.peer else PALETTE[0] for row in rows])
    axes.bar_label(bars, labels=[f"{speed:,.1f}" for speed in speeds], fontsize=7)
    axes.set_xticks(range(len(rows)), names, fontsize=7)
    axes.set_ylabel("Images/s (peers in orange)")


def _ratios(axes: Axes, rows: Sequence[BenchRow]) -> None:
    """Draw the ratios of each strategy: tokens, time and memory, measured, predicted and published."""
    fused = [row for row in rows if not row.peer and row.ratio_to and not row.recompute]
    if not fused:
        return
    for field, label, colour, shift, marker, size in RATIOS:
        points = [(x + shift, getattr(row, field)) for x, row in enumerate(fused) if getattr(row, field) is not None]
        if points:
            places, ratios = zip(*points, strict=True)
            axes.scatter(places, ratios, color=PALETTE[colour], marker=marker, s=size, label=label)
    names = [f"{row.name}, {row.precision}" for row in fused]
    axes.set_xticks(range(len(fused)), names, fontsize=7, rotation=25, ha="right", rotation_mode="anchor")
    axes.set_ylabel("Ratio to no fusion")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)


def _lines(x_field: str, x_name: str, y_field: str, y_name: str) -> Callable[[Axes, Sequence[BenchRow]], None]:
    """Return a function that draws a line of one column over another for each backend and precision."""

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


# title, section, function that draws the rows
PANELS: tuple[tuple[str, str, Callable[[Axes, Sequence[BenchRow]], None]], ...] = (
    ("Selective scan", "scan", _bars),
    ("One layer", "mixer", _bars),
    ("Whole model", "model", _bars),
    ("Training step by strategy", "step", _ratios),
    ("One layer by tokens", "growth-tokens", _lines("tokens", "Tokens", "median_ms", "Time (ms)")),
    ("One layer by batch", "growth-batch", _lines("batch", "Images", "images_per_s", "Images/s")),
    ("Whole model by depth", "growth-depth", _lines("layers", "Layers", "median_ms", "Time (ms)")),
)
