"""Equal trials of other studies: what is taken, from where, and as what it is stored."""

import os
from dataclasses import asdict, replace

import pytest
from fake_training import job_of
from synthetic_study import curve, result, results, save, table_plan

from famba_core.config import FusionConfig
from sweep.errors import UserError
from sweep.run.result_cache import ResultCache
from sweep.store import study as store
from sweep.store.compaction.compact import compact

PLAN = table_plan(2)
ROWS = results(PLAN)
TRIAL = PLAN.trials[3]
SOURCE = replace(ROWS[3], study="elsewhere", profile="paper")


def cache(results_folder):
    return ResultCache(results_folder, results_folder / "here")


@pytest.fixture
def folder(tmp_path):
    """A results folder with a study `other` that holds the trial, and nothing else of use."""
    save(tmp_path / "other", [SOURCE, ROWS[4]])
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "published").mkdir()
    return tmp_path


def test_a_result_becomes_this_studys_own(folder):
    labels = FusionConfig(strategy="upper", start_layer=9, r=4)
    asking = job_of(replace(TRIAL, profile="laptop"), 2, labels, suggestion=7)
    taken = cache(folder).take(asking)
    assert taken == store.read_result(folder / "here", TRIAL.trial_id, 2)
    assert taken["source"] == f"other/{TRIAL.trial_id}.1"
    assert (taken["study"], taken["profile"], taken["attempt"], taken["suggestion"]) == ("synthetic", "laptop", 2, 7)
    assert (taken["start_layer"], taken["r"]) == (9, 4), "the labels are those of the grid that asks"
    measured = ("top1_best_pct", "train_time_s", "peak_memory_mib", "device_name", "torch_version", "started_at")
    assert {name: taken[name] for name in measured} == {name: getattr(SOURCE, name) for name in measured}
    epochs = store.read_curve(folder / "here", TRIAL.trial_id, 2)
    own = {"study": "synthetic", "attempt": 2}
    assert epochs == [asdict(epoch) | own for epoch in curve(SOURCE)]


def test_nothing_is_copied_without_an_equal_trial(folder):
    assert cache(folder).take(job_of(PLAN.trials[0])) is None
    assert not (folder / "here").exists()


@pytest.mark.parametrize("code", ["0123456789abcdef", None])
def test_results_of_other_code_are_not_taken(tmp_path, code):
    save(tmp_path / "other", [replace(SOURCE, code_hash=code)])
    assert cache(tmp_path).take(job_of(TRIAL)) is None
    save(tmp_path / "third", [SOURCE])
    assert cache(tmp_path).take(job_of(TRIAL))["source"].startswith("third/")


def test_the_own_study_is_not_a_source(folder):
    assert ResultCache(folder, folder / "other").take(job_of(TRIAL, 2)) is None
    assert store.read_rows(folder / "other")[0]["attempt"].tolist() == [1, 1]


@pytest.mark.parametrize("status", ["failed", "pruned"])
def test_only_completed_results_are_taken(tmp_path, status):
    save(tmp_path / "other", [result(TRIAL, status=status), result(TRIAL, attempt=2, top1_pct=3.0)])
    assert cache(tmp_path).take(job_of(TRIAL))["top1_pct"] == 3.0
    save(tmp_path / "third", [result(PLAN.trials[1], status=status)])
    assert cache(tmp_path).take(job_of(PLAN.trials[1])) is None


def test_isolated_measurements_are_preferred_then_the_first_study_by_name(tmp_path):
    save(tmp_path / "b", [result(TRIAL, top1_pct=2.0, measured="in_training")])
    save(tmp_path / "c", [result(TRIAL, top1_pct=3.0, measured="isolated")])
    save(tmp_path / "d", [result(TRIAL, top1_pct=4.0, measured="isolated")])
    assert cache(tmp_path).take(job_of(TRIAL))["source"].startswith("c/")
    (tmp_path / "c").rename(tmp_path / ".c")  # hidden
    (tmp_path / "d").rename(tmp_path / "published")
    (tmp_path / "published").rename(tmp_path / "b" / "d")  # too deep
    assert cache(tmp_path).take(job_of(TRIAL, 2))["source"].startswith("b/")


def test_a_copy_of_a_copy_names_the_first(folder):
    cache(folder).take(job_of(TRIAL))
    (folder / "other").rename(folder / ".gone")
    again = ResultCache(folder, folder / "third").take(job_of(TRIAL))
    assert again["source"] == f"other/{TRIAL.trial_id}.1"


def test_compacted_studies_serve_too(folder):
    before = cache(folder)
    compact(folder / "other")
    assert before.take(job_of(TRIAL))["top1_pct"] == SOURCE.top1_pct
    listed = cache(folder)
    assert listed.take(job_of(PLAN.trials[4]))["top1_pct"] == ROWS[4].top1_pct
    assert len(store.read_curve(folder / "here", PLAN.trials[4].trial_id, 1)) == 20


@pytest.mark.parametrize("kind", ["trials", "epochs"])
def test_a_damaged_source_is_passed_over(folder, kind):
    save(folder / "second", [replace(SOURCE, top1_pct=5.0)])
    part = folder / "other" / kind / f"{TRIAL.trial_id}.1.parquet"
    part.write_bytes(part.read_bytes()[:-4])
    assert cache(folder).take(job_of(TRIAL))["top1_pct"] == 5.0


def test_a_damaged_compacted_source_is_passed_over(folder):
    save(folder / "second", [replace(SOURCE, top1_pct=5.0)])
    compact(folder / "other")
    listed = cache(folder)
    assert listed.take(job_of(PLAN.trials[4])) is not None
    for file in (folder / "other" / "compacted").iterdir():
        file.write_bytes(b"PAR1")
    assert listed.take(job_of(TRIAL))["top1_pct"] == 5.0
    (folder / "other" / "manifest.json").write_text("{")
    assert cache(folder).take(job_of(TRIAL, 2))["top1_pct"] == 5.0


@pytest.mark.parametrize("asked", ["list_parts", "read_result"])
def test_another_users_study_is_passed_over(folder, monkeypatch, asked):
    def denied(*arguments):
        raise PermissionError("another user's")

    monkeypatch.setattr(f"sweep.run.result_cache.{asked}", denied)
    assert cache(folder).take(job_of(TRIAL)) is None


def test_a_part_under_another_trials_name_is_not_taken(folder):
    parts = folder / "other" / "trials"
    (parts / f"{TRIAL.trial_id}.1.parquet").rename(parts / f"{PLAN.trials[0].trial_id}.1.parquet")
    curves = folder / "other" / "epochs"
    (curves / f"{TRIAL.trial_id}.1.parquet").rename(curves / f"{PLAN.trials[0].trial_id}.1.parquet")
    assert cache(folder).take(job_of(PLAN.trials[0])) is None


def test_the_studies_are_listed_once(folder):
    one = cache(folder)
    assert one.take(job_of(PLAN.trials[0])) is None
    save(folder / "late", [ROWS[0]])
    assert one.take(job_of(PLAN.trials[0])) is None
    assert cache(folder).take(job_of(PLAN.trials[0]))["source"].startswith("late/")


def test_a_copy_keeps_the_resources_of_its_source(folder):
    asking = replace(TRIAL, cpus_per_trial=7, gpus_per_trial=0.5)
    taken = cache(folder).take(job_of(asking))
    assert (taken["cpus_per_trial"], taken["gpus_per_trial"]) == (SOURCE.cpus_per_trial, SOURCE.gpus_per_trial)


def test_a_folder_that_cannot_be_written(folder, monkeypatch):
    def full(*arguments):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("sweep.run.result_cache.write_result", full)
    with pytest.raises(UserError, match="here: cannot be written: No space left"):
        cache(folder).take(job_of(TRIAL))
