"""Tables and reports of a study with a search show the trials that it tried, not all candidates."""

from dataclasses import replace

import pytest
from synthetic_study import data_of, result, results, save, table_plan

from sweep.grid.search import Search
from sweep.plan.plan_file import save_plan
from sweep.report import table_text
from sweep.report.tables import build_table
from sweep.report.write import write_report
from sweep.store import study as store

GRID = replace(table_plan(2), paper_table=None)
PLAN = replace(GRID, search=Search(trials=10))  # 14 candidates, and a baseline
ROWS = results(PLAN)


def study(folder, plan, rows):
    save(folder, rows)
    save_plan(folder, plan)
    return folder


def table_of(folder, plan, rows):
    return build_table(data_of(plan, store.read_rows(save(folder, rows))[0]))


@pytest.fixture
def tried():
    """Return a plan and rows: two candidates completed, one failed, two stopped early; the baseline has not run."""
    failed, *pruned = PLAN.trials[5], PLAN.trials[6], PLAN.trials[7]
    return [
        ROWS[1],
        replace(ROWS[2], source="other-laptop/x.1"),
        result(failed, status="failed", error="x"),
        *(result(trial, status="pruned", top1_best_pct=99.0) for trial in pruned),
    ]


def test_lines_are_the_baselines_and_the_completed_or_failed_candidates(tmp_path, tried):
    table = table_of(tmp_path, PLAN, tried)
    assert table["trial_ids"].tolist() == [PLAN.trials[i].trial_id for i in (0, 1, 2, 5)]
    assert table["seeds_measured"].tolist() == [0, 1, 1, 0]
    assert table["seeds_failed"].tolist() == [0, 0, 0, 1]
    assert len(table_of(tmp_path / "grid", GRID, tried)) == len(GRID.cases), "a grid shows what is missing"


def test_a_schedule_that_completed_once_has_its_line(tmp_path):
    trial = PLAN.trials[3]
    table = table_of(tmp_path, PLAN, [result(trial, status="pruned"), result(trial, attempt=2, top1_best_pct=5.0)])
    assert table["top1_best_pct"].dropna().tolist() == [5.0]


def test_a_search_without_trials_has_an_empty_table(tmp_path):
    cases = tuple(replace(case, baseline=False) for case in PLAN.cases)
    plan = replace(PLAN, cases=cases)
    table = table_of(tmp_path, plan, [])
    assert len(table) == 0
    assert list(table) == list(table_of(tmp_path / "full", plan, ROWS))
    assert table_text.printed_columns(table)
    paths = write_report(study(tmp_path / "study", plan, []))
    assert "The search has tried 0 of 10 schedules" in paths.caption
    assert "No trial has completed yet" in paths.index.read_text()


def test_the_page_counts_pruned_and_copied_trials(tmp_path, tried):
    paths = write_report(study(tmp_path, PLAN, tried))
    page = " ".join(paths.index.read_text().split())
    assert "2 of 11 completed, 1 failed, 2 stopped early</dd>" in page
    assert "1 result, from an equal trial in other-laptop" in page
    assert "The search has tried 5 of 10 schedules (stopped early, and so without a row: 2)." in paths.caption
    assert "99.0" not in paths.table.read_text()


def test_a_search_ends_when_no_candidate_is_left(tmp_path):
    plan = replace(PLAN, search=Search(trials=40))
    paths = write_report(study(tmp_path, plan, [result(PLAN.trials[6], status="pruned")]))
    assert "tried 1 of 14 schedules (stopped early, and so without a row: 1)." in paths.caption
    assert "0 of 15 completed, 0 failed, 1 stopped early" in " ".join(paths.index.read_text().split())
    fewest = replace(plan, trials=plan.trials[:2], cases=plan.cases[:2])
    paths = write_report(study(tmp_path / "fewest", fewest, []))
    assert "0 of 1 row measured. The search has tried 0 of 1 schedule." in paths.caption


def test_equal_cases_of_a_search_are_one_line(tmp_path):
    alike = replace(PLAN.cases[3], strategy="lower", start_layer=None, stop_layer=24)
    rows = [ROWS[0], ROWS[3]]
    assert len(table_of(tmp_path, replace(PLAN, cases=(*PLAN.cases, alike)), rows)) == 2
    assert len(table_of(tmp_path / "grid", replace(GRID, cases=(*GRID.cases, alike)), rows)) == len(GRID.cases) + 1
