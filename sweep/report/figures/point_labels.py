"""Labels beside the points of a scatter plot, none on top of another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.font_manager import FontProperties

FONT_SIZE = 7.5  # points
POINT_SIZE = 9.0  # points, what a marker takes of the room
SAME_PLACE = 2.0  # pixels, within which points are one to the eye
MOST_LABELS = 60  # more would hide the points


def label_points(axes: Axes, points: np.ndarray, texts: Sequence[str]) -> None:
    """Write each text beside its point, off the lines where it can be; a text without room is left out.

    Points in one place have one label: the text of the most important of them, and how many more there are. Call it
    when all else is drawn, since labels are placed on the finished layout.

    Args:
        points: [n, 2] in data coordinates, the most important first; of more than MOST_LABELS the rest has no text.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None, "the axes belong to a figure"
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    pixels = figure.dpi / 72  # of one point
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
        free = np.flatnonzero(_inside(boxes, np.array(axes.bbox.extents)) & ~_overlaps(boxes, taken).any(axis=1))
        if len(free):
            best = free[_overlaps(boxes[free], lines).sum(axis=1).argmin()]  # the nearest of those on fewest lines
            _write(axes, text, point, offsets[best])
            taken = np.vstack([taken, boxes[best]])


def _by_place(places: np.ndarray) -> dict[int, int]:
    """The first point of each of the first MOST_LABELS places, and how many more are there."""
    others: dict[int, int] = {}
    left = np.arange(len(places))
    while len(left) and len(others) < MOST_LABELS:
        there = np.abs(places[left] - places[left[0]]).max(axis=1) < SAME_PLACE
        others[int(left[0])] = int(there.sum()) - 1
        left = left[~there]
    return others


def _offsets(size: np.ndarray) -> np.ndarray:
    """Centres of the label to try, [n, 2] in points from the marker: near before far, the right side first."""
    degrees = np.deg2rad([0, 180, 30, 330, 150, 210, 90, 270, 60, 300, 120, 240])
    directions = np.column_stack([np.cos(degrees), np.sin(degrees)])
    return np.vstack([directions * (gap + size / 2) for gap in (8.5, 14.0, 24.0, 36.0)])


def _boxes(centres: np.ndarray, size: np.ndarray) -> np.ndarray:
    """[n, 4] left, bottom, right, top."""
    return np.hstack([centres - size / 2, centres + size / 2])


def _lines(axes: Axes) -> np.ndarray:
    """The boxes, [n, 4] in pixels, around the straight pieces that curves and error bars are made of."""
    curves = [line.get_xydata() for line in axes.lines if line.get_linestyle() != "None"]
    bars = [bar for bars in axes.collections if isinstance(bars, LineCollection) for bar in bars.get_segments()]
    boxes = [np.empty((0, 4))]
    for vertices in curves + bars:
        # An error bar without a spread has no vertices.
        corners = axes.transData.transform(np.asarray(vertices, dtype=float).reshape(-1, 2))
        boxes.append(np.hstack([np.minimum(corners[:-1], corners[1:]), np.maximum(corners[:-1], corners[1:])]))
    return np.vstack(boxes)


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[n, 4] and [m, 4] -> [n, m] bools."""
    return np.all((a[:, None, :2] <= b[None, :, 2:]) & (b[None, :, :2] <= a[:, None, 2:]), axis=2)


def _inside(boxes: np.ndarray, frame: np.ndarray) -> np.ndarray:
    return np.all((boxes[:, :2] >= frame[:2]) & (boxes[:, 2:] <= frame[2:]), axis=1)


def _write(axes: Axes, text: str, point: np.ndarray, offset: np.ndarray) -> None:
    leader = {"arrowstyle": "-", "color": "#9a9a9a", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4}
    label = axes.annotate(
        text,
        (point[0], point[1]),
        (offset[0], offset[1]),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=FONT_SIZE,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.3},
        arrowprops=leader,
        zorder=2.5,
    )  # above the lines, below the points
    label.set_in_layout(False)
