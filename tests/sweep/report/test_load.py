"""Rows of one study and of many, compacted or not: what they were trained with, and whether the plan asks for them."""

import dataclasses
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from synthetic_study import results, save, table_plan

import sweep
from sweep.errors import UserError
from sweep.executors.base import ResourceRequest, TrainJob
from sweep.plan.plan_file import plan_to_json, save_plan
from sweep.report.study_data import StudyData
from sweep.report.tables import build_table, table_caption
from sweep.store.compaction.compact import compact
from sweep.store.layout import StudyPaths
from sweep.worker.rows import failed_row

DOCS = Path(__file__).parents[3] / "docs" / "read-the-results.md"


def study(folder, plan, rows=None):
    save_plan(folder, plan)
    save(folder, results(plan) if rows is None else rows)
    return folder


@pytest.fixture
def results_folder(tmp_path):
    """Two studies, of which one is compacted and lies deeper."""
    study(tmp_path / "results" / "table_2-laptop", table_plan(2))
    compact(study(tmp_path / "results" / "old" / "table_3-laptop", table_plan(3)))
    return tmp_path / "results"


def test_all_studies_below_a_folder_are_read_compacted_or_not(results_folder):
    rows = sweep.load_results(results_folder)
    assert rows.groupby("folder").size().to_dict() == {
        str(results_folder / "old" / "table_3-laptop"): len(table_plan(3).trials),
        str(results_folder / "table_2-laptop"): len(table_plan(2).trials),
    }
    assert rows["planned"].all()
    assert set(sweep.load_epochs(results_folder)["folder"]) == set(rows["folder"])


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no study"):
        sweep.load_results(tmp_path)


def test_rows_that_the_plan_no_longer_asks_for_are_marked_and_said(tmp_path):
    plan = table_plan(2)
    folder = study(tmp_path, plan)
    gone = plan.trials[-1].trial_id
    edited = dataclasses.replace(
        plan, trials=plan.trials[:-1], cases=tuple(case for case in plan.cases if case.trial_id != gone)
    )
    save_plan(folder, edited)
    rows = sweep.load_results(folder)
    assert rows.loc[~rows["planned"], "trial_id"].tolist() == [gone]
    data = StudyData.read(folder)
    assert "Left out: 1 stored trial of earlier plans." in table_caption(data, build_table(data))


def test_an_unreadable_plan_leaves_open_what_was_planned(tmp_path):
    folder = study(tmp_path, table_plan(2))
    StudyPaths(folder).plan.unlink()
    assert sweep.load_results(folder)["planned"].isna().all()


def test_a_plan_that_another_one_replaces_is_kept_once(tmp_path):
    first, second = table_plan(2), table_plan(2, (0, 1))
    for plan in (first, first, second, first, second):
        save_plan(tmp_path, plan)
    kept = {file.read_text() for file in StudyPaths(tmp_path).plans.iterdir()}
    assert kept == {plan_to_json(first), plan_to_json(second)}
    assert StudyPaths(tmp_path).plan.read_text() == plan_to_json(second)


def test_a_row_holds_every_setting_that_makes_its_trial_another_one():
    trial = table_plan(2).trials[1]
    trial = dataclasses.replace(
        trial,
        train=dataclasses.replace(trial.train, lr=2e-2, weight_decay=0.3, recompute=True),
        augment=dataclasses.replace(trial.augment, mixup=0.0, flip=False),
        data=dataclasses.replace(trial.data, data_dir="/home/me/images"),
        data_fingerprint="abc",
    )
    job = TrainJob(
        trial=trial,
        attempt=1,
        labels=table_plan(2).cases[1].labels,
        resources=ResourceRequest.of_trial(trial),
    )
    row = failed_row(job, "killed")
    assert (row.lr, row.weight_decay, row.recompute, row.mixup, row.data_fingerprint) == (2e-2, 0.3, True, 0.0, "abc")
    config = json.loads(row.config)
    assert config["augment"] == vars(trial.augment)
    assert config["train"] == vars(trial.train)
    assert config["model"] == vars(trial.model)
    assert config["fusion"]["schedule"] == list(trial.fusion.schedule)
    assert "me/images" not in row.config


def test_rows_without_settings_are_read(tmp_path):
    rows = sweep.load_results(study(tmp_path, table_plan(2)))
    assert rows[["lr", "ema", "config"]].isna().all(axis=None)
    assert rows["ema"].dtype == "boolean"


def test_the_documented_paths_hold_every_row_once(results_folder):
    ((glob, pattern),) = re.findall(r"'results/(.*)', union(?s:.*)regexp_matches\(filename, '(.*)'\)", DOCS.read_text())
    compact(study(results_folder / "table_1-laptop", table_plan(1)))
    files = [file for file in results_folder.glob(glob) if re.search(pattern, str(file))]
    found = sorted(pd.concat(pd.read_parquet(file) for file in files)["trial_id"])
    direct = sweep.load_results(results_folder)
    assert found == sorted(direct.loc[~direct["folder"].str.contains("/old/"), "trial_id"])  # which is a folder deeper
