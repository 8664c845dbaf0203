"""Tables and sentences that fit a terminal: columns that drop out by importance, lines that break between words."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

GAP = 2  # spaces between columns
FILE_WIDTH = 160  # characters of a table's line if the output is not a terminal


class Heading(NamedTuple):
    """The heading of a column."""

    text: str
    numeric: bool = False  # its cells are aligned to the right and never wrapped
    rank: int = 0  # 0 is always shown; of the others, the one with the highest rank drops out first
    min_width: int = 0  # characters in which its wrapped text can still be read


def fit_columns(headings: Sequence[Heading], rows: Sequence[Sequence[str]], width: int) -> dict[int, int]:
    """Return the columns that are shown in `width` characters: their indices, each with its own width.

    A column is at least as wide as its longest word and its `min_width`. Space that remains goes to the cells of the
    most important columns, then to the headings.
    """
    cells = [[row[i] for row in rows] for i in range(len(headings))]
    widths = {i: _least_width(heading, cells[i]) for i, heading in enumerate(headings)}
    by_importance = sorted(widths, key=lambda i: headings[i].rank)

    def free() -> int:
        return width + GAP - sum(widths[i] + GAP for i in by_importance)

    while free() < 0 and headings[by_importance[-1]].rank > 0:
        by_importance.pop()
    for texts in (cells, [[heading.text] for heading in headings]):
        for i in by_importance:
            widths[i] += max(0, min(free(), max(map(len, texts[i]), default=0) - widths[i]))
    return {i: widths[i] for i in sorted(by_importance)}


def print_table(headings: Sequence[Heading], rows: Iterable[Sequence[str]]) -> None:
    """Print a table as wide as the terminal; name the columns that it has no space for.

    It is wider only if words of columns with rank 0 need it. A file or a pipe gets all columns, and never wraps the
    first one, which names the rows, so that it can be searched and copied.
    """
    from rich.console import Console
    from rich.table import Table

    rows, width, is_terminal = list(rows), terminal_width() or FILE_WIDTH, sys.stdout.isatty()
    columns = fit_columns(headings if is_terminal else [each._replace(rank=0) for each in headings], rows, width)
    if not is_terminal:
        columns[0] = max(columns[0], *(len(row[0]) for row in rows))
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for i, characters in columns.items():
        table.add_column(headings[i].text, justify="right" if headings[i].numeric else "left", width=characters)
    for row in rows:
        table.add_row(*(row[i] for i in columns))
    console = Console(width=max(width, sum(columns.values()) + GAP * (len(columns) - 1)), highlight=False)
    with console.capture() as text:  # printing directly, the console would end the program if the reader has gone
        console.print(table, crop=False)
    print("\n".join(line.rstrip() for line in text.get().splitlines()))
    left_out = [heading.text for i, heading in enumerate(headings) if i not in columns]
    if left_out:
        print_sentence(f"not shown, for want of width: {', '.join(left_out)}")


def print_sentence(text: str) -> None:
    """Print a line of text; a terminal gets it broken between words."""
    width = terminal_width()
    print(wrap_words(text, width) if width else text, flush=True)


def wrap_words(text: str, width: int) -> str:
    """Return a line as several of at most `width` characters; a longer word, such as a path, stays whole."""
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def terminal_width() -> int | None:
    """Return the characters in a line of the terminal; None if the output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _least_width(heading: Heading, cells: Sequence[str]) -> int:
    words = [word for text in (heading.text, *cells) for word in text.split()]
    longest = max(map(len, [*words, *cells] if heading.numeric else words), default=0)
    return max(longest, min(heading.min_width, max(map(len, cells), default=0)))
