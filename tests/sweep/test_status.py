"""What a study's folder tells."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_training import FakeTrainer, fake_measure, fake_trial, plan_of, run_in_process

from sweep.driver_lock import lock_study
from sweep.errors import UserError
from sweep.status import describe, study_status
from sweep.trial import run_trial


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of five trials one completed, one failed, one was interrupted, one has a torn part, and one never started."""
    monkeypatch.setattr("famba_core.train.Trainer", FakeTrainer)
    monkeypatch.setattr("sweep.measure.measure", fake_measure(tmp_path / "measured.txt"))
    plan = plan_of(*(fake_trial(seed) for seed in (0, 101, 2, 3, 4)))
    run_in_process(plan, tmp_path, limit=2)
    interrupted = run_trial(fake_trial(2), 1, tmp_path)
    next(interrupted)
    interrupted.close()
    list(run_trial(fake_trial(3), 1, tmp_path))
    (tmp_path / "trials" / "fake-seed3.1.parquet").write_bytes(b"PAR1 torn")
    return tmp_path


def states(folder: Path) -> dict[str, str]:
    return {trial.trial_id.removeprefix("fake-"): trial.state for trial in study_status(folder).trials}


def printed(folder: Path) -> list[str]:
    return describe(study_status(folder)).splitlines()


def test_a_study_that_nobody_runs(study: Path) -> None:
    assert states(study) == {
        "seed0": "completed",
        "seed101": "failed",
        "seed2": "missing",
        "seed3": "missing",
        "seed4": "missing",
    }
    assert study_status(study).driver is None
    lines = printed(study)
    assert lines[0] == "5 trials planned: 1 completed, 1 failed, 3 missing"
    assert lines[1].startswith("fake-seed101: failed: the training loss is nan in epoch 2 of 3 (traceback in logs/")
    assert lines[2] == "fake-seed2: interrupted, epoch 1/3 ended"
    assert lines[3].endswith("fake-seed3.1.parquet: cannot be read; the next run sets it aside")
    assert len(lines) == 4


def test_what_runs_is_what_its_driver_has_started(study: Path) -> None:
    with lock_study(study):
        assert states(study)["seed2"] == "missing"  # its progress is an earlier driver's
        running = run_trial(fake_trial(2), 1, study)
        next(running)
        assert states(study)["seed2"] == "running"
        lines = printed(study)
        assert lines[0] == "5 trials planned: 1 completed, 1 failed, 1 running, 2 missing"
        assert lines[1].startswith("run by process ")
        assert "fake-seed2: running, epoch 2/3 ended" in lines
        running.close()


def test_looking_changes_nothing(study: Path) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}

    before = content()
    printed(study)
    assert content() == before


def test_a_folder_without_a_plan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plan\.json"):
        study_status(tmp_path)


def test_a_plan_that_is_no_text(study: Path) -> None:
    (study / "plan.json").write_bytes(b'{"study": "\xff"}')
    with pytest.raises(UserError, match=rf"{study}: plan\.json is damaged: .*; remove it, and the next run"):
        study_status(study)
