"""Figures as the code describes them: neither MPLBACKEND nor the user's matplotlibrc changes a byte of them."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150  # also of the figures themselves, so that text is measured at the size at which it is drawn


def import_matplotlib() -> None:
    """Import matplotlib, also if MPLBACKEND names a backend that is not installed here, as a notebook's shell does.

    Call this before the first import of matplotlib, which would fail. Raises ImportError without matplotlib.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with contextlib.suppress(ValueError):  # not installed; a figure needs none to become a file
            matplotlib.rcParams["backend"] = backend


@contextlib.contextmanager
def default_style() -> Iterator[None]:
    """Give figures matplotlib's own settings while the context lasts, also as the decorator `@default_style()`."""
    import_matplotlib()
    from matplotlib import style

    with style.context(["default", {"svg.hashsalt": "famba-sweep"}]):
        yield


@default_style()
def render(figure: Figure, kind: str) -> bytes:
    """Return the figure as "svg" or "png". Equal figures give equal bytes."""
    sink = io.BytesIO()
    figure.savefig(sink, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
    return sink.getvalue()
