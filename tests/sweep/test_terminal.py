"""Tables and sentences at the widths of real terminals, with the studies that are published."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.cli.main import main
from sweep.report.study_data import StudyData
from sweep.report.table_text import Column, printed_columns
from sweep.report.tables import build_table, table_caption
from sweep.terminal import GAP, Heading, fit_columns, print_sentence, print_table

ROOT = Path(__file__).parents[2]
PUBLISHED = sorted(path.parent for path in (ROOT / "results" / "published").glob("*/plan.json"))
WIDTHS = (60, 80, 120, 200)

Terminal = Callable[[int], None]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    def set_width(columns: int) -> None:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((columns, 24)))

    return set_width


def tables_of(study: Path) -> tuple[list[Column], str]:
    data = StudyData.read(study)
    table = build_table(data)
    return printed_columns(table), table_caption(data, table)


def plain(text: str) -> list[str]:
    return [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()]


def words(text: str) -> list[str]:
    return text.split()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("study", PUBLISHED, ids=lambda path: path.name)
def test_no_cell_of_a_published_table_is_broken_inside_a_word_or_number(
    study: Path, width: int, terminal: Terminal, capsys: pytest.CaptureFixture
) -> None:
    columns, caption = tables_of(study)
    terminal(width)
    print_table(
        [Heading(column.short, column.numeric, column.rank) for column in columns],
        zip(*(column.cells for column in columns), strict=True),
    )
    lines = plain(capsys.readouterr().out)
    assert max(map(len, lines)) <= width
    known = {word for column in columns for text in (column.short, *column.cells) for word in words(text)}
    end = next((i for i, line in enumerate(lines) if line.startswith("not shown")), len(lines))
    assert {word for line in lines[:end] for word in words(line)} <= known
    left_out = " ".join(lines[end:]).removeprefix("not shown, for want of width: ").split(", ")
    shown = [column for column in columns if column.short not in left_out]
    assert {"top-1 best", "time ratio"} <= {column.short for column in shown}
    for line in zip(*(column.cells for column in shown if column.numeric), strict=True):
        assert any(set(line) <= set(re.split(r" {2,}", row.strip())) for row in lines[:end])
    print_sentence(caption)
    assert words(" ".join(plain(capsys.readouterr().out))) == words(caption)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("grid", ["starting_layer", "strategies", "tokens_per_layer", "optuna_pareto"])
def test_the_plan_of_a_shipped_grid_fits(
    grid: str, width: int, terminal: Terminal, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    command = ["plan", str(ROOT / "grids" / f"{grid}.yaml"), "--profile", "laptop", "--out", str(tmp_path)]
    assert main(command) == 0
    whole = set(words(capsys.readouterr().out))
    terminal(width)
    assert main(command) == 0
    lines = plain(capsys.readouterr().out)
    assert max(map(len, lines)) <= width
    remark = {*words("not shown, for want of width: no., layer, removed, tokens, trial, FLOPs, GiB, ends")}
    assert {word for line in lines for word in words(line)} - whole <= remark
    assert any(re.search(r"  \d+:\d\d  .*\d+:\d\d$", line) for line in lines)  # the time of a trial, and the end


def test_columns_drop_out_by_importance_and_never_in_another_order() -> None:
    rng = random.Random(0)
    for _ in range(100):
        ranks = rng.sample(range(1, 10), 5)
        headings = [Heading("name"), *(Heading(f"m{i}", numeric=True, rank=rank) for i, rank in enumerate(ranks))]
        row = ["a-name", *("1" * rng.randint(1, 12) for _ in ranks)]
        before: set[int] = set()
        for width in range(1, 90):
            shown = fit_columns(headings, [row], width)
            assert before <= shown.keys()  # a wider terminal shows no column less
            hidden = [heading.rank for i, heading in enumerate(headings) if i not in shown]
            assert max((headings[i].rank for i in shown), default=0) < min(hidden, default=99)
            assert 0 in shown
            assert len(shown) == 1 or sum(shown.values()) + GAP * (len(shown) - 1) <= width
            before = set(shown)
        assert len(before) == 6


def test_a_word_wider_than_the_terminal_stays_whole(terminal: Terminal, capsys: pytest.CaptureFixture) -> None:
    terminal(20)
    print_table([Heading("trial"), Heading("top-1", numeric=True, rank=1)], [("a-trial-with-a-long-name", "1.123")])
    print_sentence("report: a/path/that/is/longer/than/that.html is written")
    assert plain(capsys.readouterr().out) == [
        "trial",
        "a-trial-with-a-long-name",
        "not shown, for want",
        "of width: top-1",
        "report:",
        "a/path/that/is/longer/than/that.html",
        "is written",
    ]


def test_names_are_whole_in_a_file(capsys: pytest.CaptureFixture) -> None:
    names = [f"{letter * 60}-0123456789" for letter in "ab"]
    print_table([Heading("trial"), Heading("words")], [(name, "some words " * 20) for name in names])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if "-" in line] == names
