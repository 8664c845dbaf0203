"""Where a grid's study goes, and what may be in the way."""

import dataclasses
from pathlib import Path

import pytest
from synthetic_study import table_plan

from sweep.errors import UserError
from sweep.plan.plan_file import read_plan, save_plan, study_folder

PLAN = table_plan(2)
NAME = f"{PLAN.study}-{PLAN.profile}"


def test_a_new_folder_and_the_studys_own(tmp_path):
    folder = study_folder(tmp_path / "out", PLAN)
    assert folder == tmp_path / "out" / NAME
    assert not folder.exists()
    save_plan(folder, dataclasses.replace(PLAN, objectives={"top1_pct": "max"}))
    assert study_folder(tmp_path / "out", PLAN) == folder
    (folder / "plan.json").write_text("{")  # the next run writes it again
    assert study_folder(tmp_path / "out", PLAN) == folder


def test_another_studys_folder_under_this_name(tmp_path):
    save_plan(tmp_path / NAME, dataclasses.replace(PLAN, study="other"))
    with pytest.raises(
        UserError, match=rf"{NAME}: holds study 'other' with profile '{PLAN.profile}', not '{PLAN.study}'"
    ):
        study_folder(tmp_path, PLAN)


@pytest.mark.parametrize("inside", ["", "report", "report/new"])
def test_a_results_folder_in_a_study(tmp_path, inside):
    save_plan(tmp_path / "study", PLAN)
    with pytest.raises(
        UserError, match=rf"--out: .* is in a study's folder, {tmp_path}/study; name one beside it, such as"
    ):
        study_folder(tmp_path / "study" / inside, PLAN)


def test_a_folder_that_cannot_be():
    with pytest.raises(UserError, match=r"--out: .* cannot be used: File name too long"):
        study_folder(Path(300 * "a"), PLAN)


@pytest.mark.parametrize("out", ["file", "file/deeper/results", "taken"])
def test_a_file_in_the_way_is_named(tmp_path, out):
    for name in ("file", f"taken/{NAME}"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    blocking = tmp_path / ("taken/" + NAME if out == "taken" else "file")
    with pytest.raises(UserError, match=rf"--out: {blocking} is not a folder; name another one for the results"):
        study_folder(tmp_path / out, PLAN)
    with pytest.raises(UserError, match=rf"plan.json: cannot be read: {blocking} is not a folder"):
        read_plan(blocking)
