"""Labels beside the points of a scatter plot that do not overlap each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.font_manager import FontProperties

FONT_SIZE = 7.5  # points
POINT_SIZE = 9.0  # points, the width that is kept free for a marker
SAME_PLACE = 2.0  # pixels; points closer than this look like one
MOST_LABELS = 60  # more would hide the points


def label_points(axes: Axes, points: np.ndarray, texts: Sequence[str]) -> None:
    """Write each text beside its point, away from lines if possible. A text for which there is no space is left out.

    Points in one place share a label: the text of the most important one, and the number of the others. Call this when
    everything else is drawn, because labels are placed in the finished layout.

    Args:
        points: [n, 2] in data coordinates, the most important first. Only the first MOST_LABELS places have labels.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None, "the axes must belong to a figure"
    figure.draw_without_rendering()
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib has no types here
    renderer = canvas.get_renderer()
    pixels = figure.dpi / 72  # in one typographic point
    places = axes.transData.transform(points)
    taken = _boxes(places, np.array([POINT_SIZE, POINT_SIZE]) * pixels)
    lines = _lines(axes)
    font = FontProperties(size=FONT_SIZE)
    for i, others in _by_place(places).items():
        point, place = points[i], places[i]
        text = f"{texts[i]} and {others} more" if others else texts[i]
        size = np.array(renderer.get_text_width_height_descent(text, font, False)[:2])
        offsets = _offsets(size / pixels)
        boxes = _boxes(place + offsets * pixels, size + 4)
        inside = ((boxes[:, :2] >= axes.bbox.min) & (boxes[:, 2:] <= axes.bbox.max)).all(axis=1)
        free = np.flatnonzero(inside & ~_overlaps(boxes, taken).any(axis=1))
        if len(free):
            best = free[_overlaps(boxes[free], lines).sum(axis=1).argmin()]  # the nearest of those over fewest lines
            _write(axes, text, point, offsets[best])
            taken = np.vstack([taken, boxes[best]])


def _by_place(places: np.ndarray) -> dict[int, int]:
    """Return the first point of each of the first MOST_LABELS places, with the number of other points there."""
    others: dict[int, int] = {}
    left = np.arange(len(places))
    while len(left) and len(others) < MOST_LABELS:
        there = np.abs(places[left] - places[left[0]]).max(axis=1) < SAME_PLACE
        others[int(left[0])] = int(there.sum()) - 1
        left = left[~there]
    return others


def _offsets(size: np.ndarray) -> np.ndarray:
    """Return centres of the label to try, [n, 2] in points from the marker: near before far, the right side first."""
    degrees = np.deg2rad([0, 180, 30, 330, 150, 210, 90, 270, 60, 300, 120, 240])
    directions = np.column_stack([np.cos(degrees), np.sin(degrees)])
    return np.vstack([directions * (gap + size / 2) for gap in (8.5, 14.0, 24.0, 36.0)])


def _boxes(centres: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return [n, 4] left, bottom, right, top."""
    return np.hstack([centres - size / 2, centres + size / 2])


def _lines(axes: Axes) -> np.ndarray:
    """Return the boxes, [n, 4] in pixels, around the straight segments of all curves and error bars."""
    curves = [line.get_xydata() for line in axes.lines if line.get_linestyle() != "None"]
    bars = [bar for bars in axes.collections if isinstance(bars, LineCollection) for bar in bars.get_segments()]
    boxes = [np.empty((0, 4))]
    for vertices in curves + bars:
        # An error bar without a spread has no vertices.
        corners = axes.transData.transform(np.asarray(vertices, dtype=float).reshape(-1, 2))
        boxes.append(np.hstack([np.minimum(corners[:-1], corners[1:]), np.maximum(corners[:-1], corners[1:])]))
    return np.vstack(boxes)


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return which boxes overlap: [n, 4] and [m, 4] -> [n, m] bools."""
    across = (a[:, None, 0] <= b[None, :, 2]) & (b[None, :, 0] <= a[:, None, 2])
    upright = (a[:, None, 1] <= b[None, :, 3]) & (b[None, :, 1] <= a[:, None, 3])
    return across & upright


def _write(axes: Axes, text: str, point: np.ndarray, offset: np.ndarray) -> None:
    """Write a text at an offset, in points, from a point in data coordinates, with a thin line between the two."""
    label = axes.annotate(
        text,
        (point[0], point[1]),
        (offset[0], offset[1]),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=FONT_SIZE,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.3},
        arrowprops={"arrowstyle": "-", "color": "#9a9a9a", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4},
        zorder=2.5,  # above the lines, below the points
    )
    label.set_in_layout(False)
