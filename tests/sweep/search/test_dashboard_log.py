"""The copy of a search for optuna-dashboard: Optuna opens it, and damage to it does not affect the search."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from small_search import OBJECTIVES, ids, row_of, small_plan, suggestions

from sweep.search.optuna_search import OptunaSearch


def read_journal(file: Path) -> optuna.Study:
    return optuna.load_study(study_name="study", storage=JournalStorage(JournalFileBackend(str(file))))


def test_optuna_opens_the_log_and_finds_the_ended_trials(tmp_path):
    file = tmp_path / "optuna.log"
    search = OptunaSearch(small_plan(), file)
    found = suggestions(search, 5)
    study = read_journal(file)
    assert [trial.user_attrs["trial_id"] for trial in study.get_trials()] == ids(found)
    assert all(trial.state == TrialState.COMPLETE for trial in study.get_trials())
    assert study.metric_names == list(OBJECTIVES)
    assert study.get_trials()[0].values == [row_of(found[0])[column] for column in OBJECTIVES]
    for trial in study.get_trials():  # nothing made up: a start layer of upper alone
        assert ("start_layer" in trial.params) == (trial.params["strategy"] == "upper")
    assert list(tmp_path.iterdir()) == [file], "no lock is left, or waited for"


@pytest.mark.parametrize("damage", [b"", b"\x00\xff{", b'{"op_code":0}\n', None])
def test_a_damaged_or_missing_log_does_not_affect_the_search(tmp_path, damage):
    file = tmp_path / "optuna.log"
    plan = small_plan()
    before = suggestions(OptunaSearch(plan, file), 4)
    file.unlink() if damage is None else file.write_bytes(damage)
    (tmp_path / "optuna.log.lock").touch()  # as a process killed with Optuna's own lock leaves it
    search = OptunaSearch(plan, file)
    for trial in before:
        search.tell(row_of(trial))
    after = suggestions(search, 2)
    file.unlink()  # while the search runs
    after += suggestions(search, 2)
    assert ids(before + after) == ids(suggestions(OptunaSearch(plan), 8))
    assert len(read_journal(file).get_trials()) == 8


def test_a_log_that_cannot_be_written_gives_a_warning_and_is_written_later(tmp_path):
    """A folder has the file's name, so it can be neither appended to nor replaced."""
    file = tmp_path / "optuna.log"
    search = OptunaSearch(small_plan(), file)
    found = suggestions(search, 3)
    file.rename(tmp_path / "moved")
    file.mkdir()
    with pytest.warns(UserWarning, match=r"optuna\.log: cannot be written: Is a directory"):
        found += suggestions(search, 2)
    file.rmdir()
    (tmp_path / "moved").rename(file)
    file.write_bytes(file.read_bytes() + b'{"op_co')  # as a disk that is full cuts it
    found += suggestions(search, 1)
    assert ids(found) == ids(suggestions(OptunaSearch(small_plan()), 6))
    assert [t.user_attrs["trial_id"] for t in read_journal(file).get_trials()] == ids(found)
