"""Labels beside the points of a scatter plot, none on top of another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.font_manager import FontProperties
from matplotlib.transforms import Bbox

FONT_SIZE = 7.5  # points
POINT_SIZE = 9.0  # points, what a marker takes of the room


def label_points(axes: Axes, points: np.ndarray, texts: Sequence[str]) -> None:
    """Write each text beside its point, off the lines where it can be; a text without room is left out.

    Call it when all else is drawn, since labels are placed on the finished layout.

    Args:
        points: [n, 2] in data coordinates, the most important first.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None, "the axes belong to a figure"
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    pixels = figure.dpi / 72  # of one point
    places = axes.transData.transform(points)
    taken = [_box(x, y, POINT_SIZE * pixels, POINT_SIZE * pixels) for x, y in places]
    lines = list(_lines(axes))
    font = FontProperties(size=FONT_SIZE)
    for point, (x, y), text in zip(points, places, texts, strict=True):
        width, height, _ = renderer.get_text_width_height_descent(text, font, False)
        free = []
        for dx, dy in _offsets(width / pixels, height / pixels):
            box = _box(x + dx * pixels, y + dy * pixels, width + 2, height + 2)
            if _inside(box, axes.bbox) and not any(box.overlaps(other) for other in taken):
                free.append(((dx, dy), box, sum(box.overlaps(line) for line in lines)))
        if free:
            offset, box, _ = min(free, key=lambda candidate: candidate[2])  # the nearest of the best
            _write(axes, text, point, offset)
            taken.append(box)


def _lines(axes: Axes) -> Iterator[Bbox]:
    """The boxes, in pixels, of the straight pieces that curves and error bars are made of."""
    curves = [line.get_xydata() for line in axes.lines]
    bars = [bar for bars in axes.collections if isinstance(bars, LineCollection) for bar in bars.get_segments()]
    for vertices in curves + bars:
        corners = axes.transData.transform(np.asarray(vertices, dtype=float))
        yield from (Bbox([np.minimum(a, b) - 0.5, np.maximum(a, b) + 0.5]) for a, b in pairwise(corners))


def _offsets(width: float, height: float) -> Iterator[tuple[float, float]]:
    """Centres of the label to try, in points from the marker: near before far, the right side first."""
    for gap in (8.5, 14.0, 24.0, 36.0, 50.0):
        for degrees in (0, 180, 30, 330, 150, 210, 90, 270, 60, 300, 120, 240):
            x, y = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
            yield float(x * (gap + width / 2)), float(y * (gap + height / 2))


def _box(x: float, y: float, width: float, height: float) -> Bbox:
    return Bbox([[x - width / 2, y - height / 2], [x + width / 2, y + height / 2]])


def _inside(box: Bbox, frame: Bbox) -> bool:
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


def _write(axes: Axes, text: str, point: np.ndarray, offset: tuple[float, float]) -> None:
    leader = {"arrowstyle": "-", "color": "#9a9a9a", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4}
    label = axes.annotate(
        text, (point[0], point[1]), offset, textcoords="offset points", ha="center", va="center", fontsize=FONT_SIZE,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.3}, arrowprops=leader,
        zorder=2.5)  # above the lines, below the points
    label.set_in_layout(False)
