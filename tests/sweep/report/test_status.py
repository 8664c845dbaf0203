"""The status of a study: states of trials, damaged files, and folders that cannot be read."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from fake_training import FAULTS, FakeTrainer, fake_measure, fake_trial, job_of, plan_of, run_in_process

from sweep.errors import UserError
from sweep.grid.search import Search
from sweep.plan.model import Case
from sweep.plan.plan_file import save_plan
from sweep.report.status import describe, read_status
from sweep.store.layout import StudyPaths
from sweep.store.lock import lock_study, read_last_holder_token
from sweep.store.progress import PROGRESS_FILE, TrialProgress
from sweep.store.recovery import quarantine
from sweep.store.study import write_result
from sweep.worker.rows import failed_row
from sweep.worker.trial import run_trial

LABELS: dict[str, Any] = {
    "backbone": "vim_nano", "strategy": "upper", "start_layer": 13, "stop_layer": None, "r": 1, "order": "concat",
    "weighting": "mean", "seed": 0,
}  # fmt: skip


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a study of five trials: completed, failed, interrupted, with a torn part, and never started."""
    monkeypatch.setattr("famba_core.training.trainer.Trainer", FakeTrainer)
    monkeypatch.setattr("sweep.worker.measure.measure", fake_measure(tmp_path / "measured.txt"))
    plan = plan_of(*(fake_trial(seed) for seed in (0, 101, 2, 3, 4)))
    run_in_process(plan, tmp_path, limit=2)
    interrupted = run_trial(job_of(fake_trial(2)), tmp_path)
    next(interrupted)
    interrupted.close()
    list(run_trial(job_of(fake_trial(3)), tmp_path))
    (tmp_path / "trials" / "fake-seed3.1.parquet").write_bytes(b"PAR1 torn")
    return tmp_path


def states(folder: Path) -> dict[str, str]:
    return {trial.trial_id.removeprefix("fake-"): trial.state for trial in read_status(folder).trials}


def printed(folder: Path) -> list[str]:
    return describe(read_status(folder)).splitlines()


def test_status_of_a_study_without_a_driver(study: Path) -> None:
    assert states(study) == {
        "seed0": "completed",
        "seed101": "failed",
        "seed2": "missing",
        "seed3": "missing",
        "seed4": "missing",
    }
    assert read_status(study).driver is None
    lines = printed(study)
    assert lines[0] == "5 trials planned: 1 completed, 1 failed, 3 missing"
    assert lines[1].startswith("fake-seed101: failed: the training loss is nan in epoch 2 of 3 (traceback in logs/")
    assert lines[2] == "fake-seed2: interrupted, epoch 1/3 ended"
    assert lines[3].endswith("fake-seed3.1.parquet: cannot be read; the next run moves it to quarantine/")
    assert len(lines) == 4


def test_only_trials_that_the_current_driver_started_are_running(study: Path) -> None:
    with lock_study(study):
        assert states(study)["seed2"] == "missing"  # its progress is an earlier driver's
        running = run_trial(job_of(fake_trial(2)), study)
        next(running)
        assert states(study)["seed2"] == "running"
        lines = printed(study)
        assert lines[0] == "5 trials planned: 1 completed, 1 failed, 1 running, 2 missing"
        assert lines[1].startswith("run by process ")
        assert "fake-seed2: running, epoch 2/3 ended" in lines
        running.close()


def test_status_changes_no_file(study: Path) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}

    before = content()
    printed(study)
    assert content() == before


@pytest.mark.parametrize("name", ["driver.lock", "plan.json"])
def test_a_folder_in_place_of_a_file_raises_user_error(study: Path, name: str) -> None:
    (study / name).unlink(missing_ok=True)
    (study / name).mkdir()
    with pytest.raises(UserError, match=rf"{name}.*cannot be read: Is a directory"):
        read_status(study)


@pytest.mark.parametrize("name", ["quarantine", "compacted", "epochs", "rungs", "logs"])
def test_a_file_in_place_of_an_unneeded_folder_is_ignored(study: Path, name: str) -> None:
    whole = printed(study)
    if (study / name).exists():
        (study / name).rename(study / "moved")
    (study / name).write_text("")
    assert printed(study) == whole


def test_a_folder_without_a_plan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plan\.json"):
        read_status(tmp_path)


def test_a_plan_that_is_not_utf8_raises_user_error(study: Path) -> None:
    (study / "plan.json").write_bytes(b'{"study": "\xff"}')
    with pytest.raises(UserError, match=rf"{study}: plan\.json is damaged: .*; remove it, and the next run"):
        read_status(study)


def test_quarantined_files_are_listed(study: Path) -> None:
    torn = study / "trials" / "fake-seed3.1.parquet"
    (moved,) = quarantine(study, [torn])
    status = read_status(study)
    assert (status.damaged, status.quarantined) == ((), (moved,))
    assert printed(study)[-2:] == [
        "1 damaged file in quarantine/; results that were nowhere else will be computed again:",
        f"  {moved}",
    ]
    (study / "epochs" / "fake-seed3.1.parquet").write_text("torn as well")
    quarantine(study, [study / "epochs" / "fake-seed3.1.parquet"])
    assert "2 damaged files in quarantine/; results that were nowhere else will be computed again:" in printed(study)


@pytest.mark.parametrize("jump_s", [-(10**6), 10**6])
def test_a_clock_jump_does_not_change_the_states(study: Path, jump_s: int) -> None:
    """File times before and after the lock's do not make progress look old or new."""
    progress = StudyPaths(study).checkpoint("fake-seed2") / PROGRESS_FILE

    def jump() -> None:
        now = (study / "driver.lock").stat().st_mtime
        os.utime(progress, (now + jump_s, now + jump_s))

    with lock_study(study):
        jump()
        assert states(study)["seed2"] == "missing"
        running = run_trial(job_of(fake_trial(2)), study)
        next(running)
        jump()
        assert states(study)["seed2"] == "running"
        running.close()
    with lock_study(study):
        assert states(study)["seed2"] == "missing"


def test_a_search_shows_only_suggested_trials(tmp_path: Path) -> None:
    trials = [fake_trial(seed) for seed in range(300)]
    cases = [Case(baseline=i == 0, trial_id=trial.trial_id, **LABELS) for i, trial in enumerate(trials)]
    plan = replace(plan_of(*trials), cases=tuple(cases), search=Search(trials=40))
    save_plan(tmp_path, plan)
    assert printed(tmp_path) == ["optuna (tpe): 0 of 40 trials tried", "baselines: 1 missing"]
    for seed, status in ((0, "completed"), (5, "completed"), (9, "completed"), (8, "pruned"), (3, "failed")):
        row = failed_row(job_of(trials[seed]), "x")
        write_result(tmp_path, replace(row, status=status, error="x" if status == "failed" else None), ())
    TrialProgress.begin(1, 3).write(StudyPaths(tmp_path).checkpoint("fake-seed20"))
    with lock_study(tmp_path):
        for seed in (30, 31):
            begun = replace(TrialProgress.begin(1, 3), driver=read_last_holder_token(tmp_path))
            begun.write(StudyPaths(tmp_path).checkpoint(f"fake-seed{seed}"))
        lines = printed(tmp_path)
    assert lines[0] == "optuna (tpe): 4 of 40 trials tried: 2 completed, 1 failed, 1 pruned; 2 running; 1 interrupted"
    assert lines[1] == "baselines: 1 completed"
    assert lines[3:] == [
        "fake-seed3: failed: x",
        "fake-seed20: interrupted, epoch 0/3 ended",
        "fake-seed30: running, epoch 0/3 ended",
        "fake-seed31: running, epoch 0/3 ended",
    ]


def test_a_search_counts_no_more_trials_than_it_can_choose_from(tmp_path: Path) -> None:
    trials = [fake_trial(seed) for seed in range(3)]
    cases = [Case(baseline=i == 0, trial_id=trial.trial_id, **LABELS) for i, trial in enumerate(trials)]
    for planned, tried in ((trials, "0 of 2 trials tried"), (trials[:2], "0 of 1 trial tried")):
        plan = replace(plan_of(*planned), cases=tuple(cases[: len(planned)]), search=Search(trials=40))
        save_plan(tmp_path, plan)
        assert printed(tmp_path)[0] == f"optuna (tpe): {tried}"


def test_thousands_of_trials_are_counted_without_a_lookup_for_each(tmp_path: Path, monkeypatch: Any) -> None:
    trials = [fake_trial(seed) for seed in range(2000)]
    save_plan(tmp_path, plan_of(*trials))
    TrialProgress.begin(1, 3).write(StudyPaths(tmp_path).checkpoint("fake-seed7"))
    looked = []
    real = TrialProgress.read.__func__
    monkeypatch.setattr(TrialProgress, "read", classmethod(lambda cls, place: looked.append(place) or real(cls, place)))
    assert printed(tmp_path)[0] == "2000 trials planned: 2000 missing"
    assert [place.name for place in looked] == ["fake-seed7"]


def test_a_failed_trial_that_is_retried_is_running(study: Path) -> None:
    with lock_study(study):
        first = run_trial(job_of(fake_trial(101), 2), study)
        assert states(study)["seed101"] == "failed"
        next(first)
        assert states(study)["seed101"] == "running"
        assert "fake-seed101: running, epoch 1/3 ended" in printed(study)
        list(first)
        assert states(study)["seed101"] == "failed"
        FAULTS[106] = ZeroDivisionError()  # a failure that leaves its progress
        try:
            list(run_trial(job_of(fake_trial(106)), study))
        finally:
            del FAULTS[106]
        save_plan(study, plan_of(fake_trial(106)))
        assert (StudyPaths(study).checkpoint("fake-seed106") / PROGRESS_FILE).exists()
        assert states(study) == {"seed106": "failed"}, "the failed attempt is not running"


@pytest.mark.parametrize(
    "change",
    [{"suggestion": "7"}, {"epoch": "2"}, {"attempt": None}, {"started_at": "yesterday"}, {"started_at": 3},
     {"wall_time_s": "long"}, {"driver": 5}],
)  # fmt: skip
def test_damaged_progress_reads_as_none(tmp_path: Path, change: dict[str, Any]) -> None:
    whole = TrialProgress.begin(1, 3, "token")
    whole.write(tmp_path)
    assert TrialProgress.read(tmp_path) == whole
    (tmp_path / PROGRESS_FILE).write_text(json.dumps(asdict(whole) | change))
    assert TrialProgress.read(tmp_path) is None
    (tmp_path / PROGRESS_FILE).write_text("[]")
    assert TrialProgress.read(tmp_path) is None


@pytest.mark.parametrize("name", ["trials", "measurements", "checkpoints"])
@pytest.mark.parametrize("kind", ["file", "loop"])
def test_an_unreadable_folder_is_named_and_the_rest_is_shown(study: Path, name: str, kind: str) -> None:
    (study / name).rename(study / "elsewhere")
    if kind == "file":
        (study / name).write_text("")
    else:
        (study / name).symlink_to(name)
    shown = printed(study)
    assert shown[0].startswith("5 trials planned: ")
    reason = "Not a directory" if kind == "file" else "Too many levels of symbolic links"
    assert f"{study / name}: cannot be read: {reason}" in shown


def test_a_damaged_manifest_is_listed_once(study: Path) -> None:
    (study / "manifest.json").write_text("x")
    assert sum("manifest.json" in line for line in printed(study)) == 1
