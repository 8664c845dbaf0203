"""A study's folder may come from anywhere: nothing in it is unpickled, and no name in it leads out of it."""

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fake_training import fake_trial, job_of, plan_of, run_in_process
from synthetic_study import results, save, table_plan

from famba_core.arrow import arrow_schema
from famba_core.config import DataConfig, FusionSchedule, TrainConfig
from sweep.errors import UserError
from sweep.plan.plan_file import plan_from_json, plan_to_json, save_plan
from sweep.report.status import describe, read_status
from sweep.report.write import write_report
from sweep.run.result_cache import ResultCache
from sweep.schema import ResultRow
from sweep.store import study as store
from sweep.store.compaction.compact import compact

PLAN = table_plan(2)
ROWS = results(PLAN)
OUTSIDE = ["../../x", "/x", "a/b", "..", ".hidden", "", "a\nb", "a\\b", "ä"]


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def write_part(folder, row, name):
    table = pa.Table.from_pylist([dataclasses.asdict(row)], schema=arrow_schema(ResultRow))
    pq.write_table(table, folder / "trials" / name)


@pytest.mark.parametrize("trial_id", OUTSIDE)
def test_a_row_whose_id_is_no_plain_name_is_damaged(tmp_path, trial_id):
    save(tmp_path, ROWS[:1])
    write_part(tmp_path, dataclasses.replace(ROWS[1], trial_id=trial_id), "x.1.parquet")
    for columns in (None, ["status"]):
        rows, damaged = store.read_rows(tmp_path, columns)
        assert rows["trial_id"].tolist() == [ROWS[0].trial_id]
        assert damaged == [tmp_path / "trials" / "x.1.parquet"]
    assert store.read_result(tmp_path, "x", 1) is None
    assert compact(tmp_path).rows["trials"] == 1


@pytest.mark.parametrize("trial_id", OUTSIDE)
def test_a_plan_whose_id_is_no_plain_name_is_refused(tmp_path, trial_id):
    plan = dataclasses.replace(PLAN, trials=(dataclasses.replace(PLAN.trials[0], trial_id=trial_id),), cases=())
    save_plan(tmp_path, plan)
    for read in (read_status, write_report):
        with pytest.raises(UserError, match=r"plan\.json is damaged: it has ids that cannot name a folder"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        ({"trials": [], "cases": []}, "it has no trial"),
        ({"objectives": {}}, "its objectives are not measured columns: none"),
        ({"objectives": {"backbone": "max"}}, "its objectives are not measured columns: backbone"),
        ({"objectives": {"top1_pct": "up"}}, "its objectives must be max or min, not up"),
        ({"paper_table": 9}, "its paper_table is 9, and the paper has tables 1, 2 and 3"),
    ],
)
def test_a_plan_that_no_grid_makes_is_refused(tmp_path, changed, finding):
    text = json.dumps(json.loads(plan_to_json(PLAN)) | changed | {"checksum": None})
    with pytest.raises(UserError, match=rf"plan\.json is damaged: {finding}"):
        plan_from_json(text, tmp_path)


def test_a_run_removes_nothing_outside_its_checkpoints(tmp_path, monkeypatch):
    study = tmp_path / "results" / "study"
    save(study, ROWS[:1])
    precious = tmp_path / "precious"
    precious.mkdir()
    write_part(study, dataclasses.replace(ROWS[1], trial_id="../../../precious"), "x.1.parquet")
    done = dataclasses.replace(PLAN, trials=PLAN.trials[:1], cases=PLAN.cases[:1])
    run_in_process(done, study)
    assert precious.is_dir()
    assert (study / "quarantine" / "trials" / "x.1.parquet").exists()


def test_nothing_in_a_results_folder_is_unpickled(tmp_path):
    """Pickles under every name that a reader might open, in a study that is reported, resumed and compacted."""
    mark, study = tmp_path / "unpickled", tmp_path / "results" / "study"
    trap = pickle.dumps(Trap(mark))
    pickle.loads(trap).close()
    assert mark.exists(), "the trap works"
    mark.unlink()
    trial = dataclasses.replace(
        fake_trial(0),
        fusion=FusionSchedule(schedule=(0,) * 24),
        data=DataConfig(dataset="digits", train_images=32),
        train=TrainConfig(epochs=1, warmup_epochs=0, batch_size=32),
    )
    plan = plan_of(trial)
    save(study, [])
    save_plan(study, plan)
    checkpoint = study / "checkpoints" / trial.trial_id
    for folder in (study, study / "compacted", study / "quarantine" / "trials", checkpoint, study / "rungs"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("state.pkl", "tuner.pkl", "last.pt", "searcher-state.pkl"):
            (folder / name).write_bytes(trap)
    for kind in ("trials", "epochs", "measurements"):
        (study / kind).mkdir(exist_ok=True)
        (study / kind / "trap.1.parquet").write_bytes(trap)
    (checkpoint / "progress.json").write_bytes(trap)
    torch.save({"model": Trap(mark)}, checkpoint / "last.pt")
    (study / "driver.lock").write_bytes(trap)

    assert "trap.1.parquet: cannot be read" in describe(read_status(study))
    write_report(_with_cases(tmp_path, study))
    assert ResultCache(study.parent, tmp_path / "other").take(job_of(trial)) is None
    assert run_in_process(plan, study).completed == 1
    compact(study)
    assert describe(read_status(study)).splitlines()[0] == "1 trial planned: 1 completed"
    assert not mark.exists()


def _with_cases(tmp_path, study):
    """A study like this one with a plan that has a table."""
    copy = tmp_path / "copy"
    shutil.copytree(study, copy)
    save_plan(copy, PLAN)
    return copy


def test_the_plan_is_json_and_nothing_else(tmp_path):
    text = plan_to_json(PLAN)
    assert plan_from_json(text, tmp_path) == PLAN
    assert json.loads(text)["study"] == "table_2"
