"""A finished table as text: number formats, Markdown, LaTeX and CSV, against golden files."""

import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest
from synthetic_study import data_of, results, save, table_plan

from sweep.plan.model import Plan
from sweep.report import table_text
from sweep.report.tables import build_table, table_caption
from sweep.store import study as store

GOLDEN = Path(__file__).parent / "golden"


def frame(folder, rows):
    return store.read_rows(save(folder, rows))[0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (43.21, "43.2 s"),
        (599.94, "599.9 s"),
        (600, "0:10:00"),
        (3599.6, "1:00:00"),
        (16382, "4:33:02"),
        (360000, "100:00:00"),
    ],
)
def test_durations(seconds, text):
    assert table_text.duration(seconds) == text


def test_numbers_with_standard_deviations():
    assert table_text.duration(43.21, 0.55) == "43.2 ± 0.6 s"
    assert table_text.duration(16382, 61) == "4:33:02 ± 0:01:01"
    assert table_text.percent(72.66, 0.25) == "72.7 ± 0.2"
    assert table_text.ratio(0.9037) == "0.904"
    assert (table_text.mebibytes(8302), table_text.mebibytes(20.75)) == ("8302", "20.8")


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1.2592e9, 98.7e7], ["1,259,200,000", "987,000,000"]),
        ([1234.5, 812.0], ["1,234", "812"]),
        ([0.97316, 1.0423], ["0.973", "1.042"]),
        ([43.21, 120.0, float("nan")], ["43.2", "120.0", "–"]),
        ([0.0, 168.0], ["0", "168"]),
        ([-0.0125], ["-0.0125"]),
        ([3e-9, 2.0], ["3.00e-09", "2.00e+00"]),
        ([], []),
    ],
)
def test_numbers_of_any_magnitude(values, texts):
    assert table_text.in_few_digits(values) == texts


def test_csv_keeps_every_digit(tmp_path):
    plan = table_plan(2)
    table = build_table(data_of(plan, frame(tmp_path, results(plan))))
    (tmp_path / "t.csv").write_text(table.to_csv(index=False))
    back = pd.read_csv(tmp_path / "t.csv")
    assert list(back.columns) == list(table.columns)
    for name in ("top1_best_pct", "train_time_ratio", "published_train_time_s"):
        assert back[name].tolist() == table[name].tolist()


def test_latex_escapes_special_characters(tmp_path):
    plan: Plan = dataclasses.replace(table_plan(2), study=r"50%_of & #1 {x} ~^\$")
    rows = frame(tmp_path, [])
    table = build_table(data_of(plan, rows))
    latex = table_text.to_latex(table_text.printed_columns(table), table_caption(data_of(plan, rows), table), "tab:x")
    caption = re.search(r"\\caption\{(.*)\}\n", latex)[1]
    assert r"50\%\_of \& \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{}\$" in caption


def test_markdown_lines_have_equal_columns(tmp_path):
    plan = table_plan(1, seeds=(0, 1))
    table = build_table(data_of(plan, frame(tmp_path, results(plan))))
    lines = table_text.to_markdown(table_text.printed_columns(table), "caption").split("\n\n")[0].splitlines()
    assert len(lines) == 2 + 10
    assert {line.count(" | ") for line in lines} == {len(table_text.printed_columns(table)) - 1}


@pytest.mark.parametrize(
    ("number", "seeds", "kind"),
    [(1, (0, 1), "md"), (2, (0,), "md"), (3, (0,), "md"), (1, (0, 1), "tex"), (2, (0,), "csv")],
)
def test_texts_match_the_golden_files(number, seeds, kind, tmp_path):
    """The last trial is not measured. Users read these texts: change the golden files by hand only."""
    plan = table_plan(number, seeds)
    rows = frame(tmp_path, results(plan)[:-1])
    table = build_table(data_of(plan, rows))
    caption = table_caption(data_of(plan, rows), table)
    text = {
        "md": table_text.to_markdown(table_text.printed_columns(table), caption),
        "tex": table_text.to_latex(table_text.printed_columns(table), caption, "tab:golden"),
        "csv": table.round(6).to_csv(index=False),
    }[kind]
    assert text == (GOLDEN / f"table{number}.{kind}").read_text()
