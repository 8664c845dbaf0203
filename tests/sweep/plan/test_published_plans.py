"""The plan.json files of published studies, written by earlier versions: still read, under the same trial ids."""

from pathlib import Path

import pytest

from sweep.plan.identity import trial_id
from sweep.plan.plan_file import read_plan
from sweep.store import study

PUBLISHED = Path(__file__).parents[3] / "results" / "published"
STUDIES = sorted(file.parent for file in PUBLISHED.glob("*/plan.json"))


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_published_plan_keeps_its_trial_ids(folder):
    plan = read_plan(folder)
    assert [trial_id(trial) for trial in plan.trials] == [trial.trial_id for trial in plan.trials]
    stored = set(study.read_rows(folder, ["trial_id"]).rows["trial_id"])
    assert stored <= {trial.trial_id for trial in plan.trials}
    assert len(stored) >= 3
