"""Resume, retries and interrupts: they are the same above every executor."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_executor import FakeExecutor
from fake_training import FakeTrainer, fake_measure, fake_trial, job_of, plan_of, run_in_process, screen_of, starts

from sweep.errors import UserError
from sweep.executors.base import Event, Finished, Lost
from sweep.run.runner import RunSummary, missing_trials, run_plan
from sweep.store.compaction.compact import compact
from sweep.store.layout import StudyPaths
from sweep.store.study import read_rows, select_outcomes, write_result
from sweep.worker.rows import failed_row
from sweep.worker.trial import run_trial


@pytest.fixture(autouse=True)
def fake_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("famba_core.training.trainer.Trainer", FakeTrainer)
    monkeypatch.setattr("sweep.worker.measure.measure", fake_measure(tmp_path / "measured.txt"))


def run_scripted(folder: Path, script: dict[int, list[str]]) -> tuple[RunSummary, FakeExecutor]:
    """Run trials of these seeds whose submissions end by the script: "ok", "lost", or "stored" and then lost."""
    ends = {f"fake-seed{seed}": iter(each) for seed, each in script.items()}

    def end_last(executor: FakeExecutor) -> list[Event]:
        job_id, job = executor.running.popitem()
        end = next(ends[job_id])
        if end in ("ok", "stored"):
            list(run_trial(job, folder))
        if end == "ok":
            return [Finished(job_id=job_id, status="completed", error=None)]
        return [Lost(job_id=job_id, reason="its worker process died")]

    plan = plan_of(*(fake_trial(seed) for seed in script))
    executor = FakeExecutor(end_last, measured_peak_mib=1.0)
    summary = run_plan(plan, folder, executor, listeners=[screen_of(plan)])
    assert all(len(running) <= executor.capacity for running in executor.beside)
    assert executor.stopped == []
    assert len((folder / "measured.txt").read_text().splitlines()) == 1
    return summary, executor


def submissions(executor: FakeExecutor) -> list[tuple[str, int]]:
    return [(job.job_id, job.attempt) for job in executor.submitted]


def test_a_second_run_trains_only_what_is_missing(tmp_path: Path) -> None:
    plan = plan_of(*(fake_trial(seed) for seed in range(4)))
    assert missing_trials(plan, tmp_path, read_rows(tmp_path), limit=2) == list(plan.trials[:2])
    first = run_in_process(plan, tmp_path, limit=2)
    assert first == RunSummary(requested=2, completed=2, failed=0, interrupted=False)
    assert first.sentence == "2 of 2 trials completed"
    assert missing_trials(plan, tmp_path, read_rows(tmp_path)) == list(plan.trials[2:])
    parts = {part: part.read_bytes() for part in tmp_path.glob("*/*.parquet")}
    second = run_in_process(plan, tmp_path)
    assert second == RunSummary(requested=4, completed=4, failed=0, interrupted=False)
    assert starts(tmp_path) == [f"fake-seed{seed} 1" for seed in range(4)]
    assert all(part.read_bytes() == before for part, before in parts.items())


def test_nothing_to_do_starts_no_executor_and_imports_neither_ray_nor_torch(tmp_path: Path) -> None:
    plan = plan_of(fake_trial(0), fake_trial(101))
    run_in_process(plan, tmp_path)

    def no_executor(folder: Path, trials: object) -> FakeExecutor:
        raise AssertionError("there is nothing to run")

    assert run_plan(plan, tmp_path, no_executor, listeners=[screen_of(plan)]).exit_code == 1
    code = (
        "import sys; from pathlib import Path; from sweep.run.listeners.screen import Screen\n"
        "from sweep.run.runner import run_plan\n"
        "from sweep.plan.plan_file import plan_from_json\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "plan = plan_from_json((folder / 'plan.json').read_text(), folder)\n"
        "assert run_plan(plan, folder, None, listeners=[Screen({})]).completed == 1\n"
        "assert not {'torch', 'ray'} & set(sys.modules), 'slow imports'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rows_read_before_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(*(fake_trial(seed) for seed in range(3)))
    run_in_process(plan, tmp_path, limit=2)
    compact(tmp_path)
    run_in_process(plan, tmp_path)
    stored = read_rows(tmp_path)
    monkeypatch.setattr("sweep.run.runner.read_rows", None)
    assert run_in_process(plan, tmp_path, stored=stored).completed == 3
    assert len(starts(tmp_path)) == 3


def test_rows_that_another_driver_stored_since_are_found(tmp_path: Path) -> None:
    plan = plan_of(fake_trial(0), fake_trial(1))
    run_in_process(plan, tmp_path, limit=1)
    stored = read_rows(tmp_path)
    run_in_process(plan, tmp_path)
    assert run_in_process(plan, tmp_path, stored=stored).completed == 2
    assert starts(tmp_path) == ["fake-seed0 1", "fake-seed1 1"]


@pytest.mark.parametrize("meanwhile", [run_in_process, lambda plan, folder: compact(folder)], ids=["run", "compact"])
def test_a_part_that_was_damaged_at_the_reading_may_have_been_replaced(tmp_path: Path, meanwhile: Callable) -> None:
    plan = plan_of(fake_trial(0), fake_trial(1))
    run_in_process(plan, tmp_path)
    part = tmp_path / "trials" / "fake-seed0.1.parquet"
    part.write_bytes(part.read_bytes()[:-7])
    stored = read_rows(tmp_path)
    assert stored.damaged == [part]
    meanwhile(plan, tmp_path)  # sets it aside; a run stores the attempt again, under the same name
    assert run_in_process(plan, tmp_path, stored=stored).completed == 2
    assert starts(tmp_path) == ["fake-seed0 1", "fake-seed1 1", "fake-seed0 1"]
    assert read_rows(tmp_path)[0]["status"].tolist() == ["completed"] * 2


def test_a_failing_trial_does_not_stop_the_others(tmp_path: Path) -> None:
    summary = run_in_process(plan_of(fake_trial(0), fake_trial(101), fake_trial(102), fake_trial(1)), tmp_path)
    assert (summary.completed, summary.failed, summary.exit_code) == (2, 2, 1)
    assert starts(tmp_path)[-1] == "fake-seed1 1"


def test_failed_trials_run_again_only_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(fake_trial(101), fake_trial(0))
    run_in_process(plan, tmp_path)
    assert run_in_process(plan, tmp_path).sentence.startswith("1 of 2 trials completed, 1 failed (")
    assert len(starts(tmp_path)) == 2
    assert missing_trials(plan, tmp_path, read_rows(tmp_path)) == []
    assert missing_trials(plan, tmp_path, read_rows(tmp_path), retry_failed=True) == [plan.trials[0]]
    monkeypatch.setattr("fake_training.FAULTS", {})
    assert run_in_process(plan, tmp_path, retry_failed=True).completed == 2
    assert starts(tmp_path)[2:] == ["fake-seed101 1"]
    rows, _ = read_rows(tmp_path)
    assert rows[rows["trial_id"] == "fake-seed101"][["attempt", "status"]].values.tolist() == [
        [1, "failed"],
        [2, "completed"],
    ]
    assert run_in_process(plan, tmp_path, retry_failed=True).completed == 2
    assert len(starts(tmp_path)) == 3


def test_a_trial_lost_twice_is_a_failed_row(tmp_path: Path) -> None:
    summary, executor = run_scripted(tmp_path, {0: ["lost", "ok"], 1: ["lost", "lost"], 2: ["ok"]})
    assert summary == RunSummary(requested=3, completed=2, failed=1, interrupted=False)
    assert sorted(submissions(executor)) == [
        ("fake-seed0", 1),
        ("fake-seed0", 1),
        ("fake-seed1", 1),
        ("fake-seed1", 1),
        ("fake-seed2", 1),
    ]
    row = select_outcomes(read_rows(tmp_path)[0]).loc["fake-seed1"]
    assert (row["status"], row["attempt"]) == ("failed", 1)
    assert "its worker process died" in row["error"]
    assert executor.closed


def test_a_worker_that_dies_after_storing_its_row_is_not_repeated(tmp_path: Path) -> None:
    summary, executor = run_scripted(tmp_path, {0: ["stored"]})
    assert summary.completed == 1
    assert submissions(executor) == [("fake-seed0", 1)]


def test_a_row_that_cannot_be_stored_is_a_lost_trial(tmp_path: Path) -> None:
    (tmp_path / "epochs").mkdir()
    (tmp_path / "epochs" / "fake-seed0.1.parquet").mkdir()  # a folder where the curve would go
    with pytest.raises(UserError, match="cannot be written: Is a directory"):  # nor can the runner store the failure
        run_in_process(plan_of(fake_trial(0)), tmp_path)
    assert starts(tmp_path) == ["fake-seed0 1", "fake-seed0 4"]  # the second time nothing was left to train
    assert (StudyPaths(tmp_path).checkpoint("fake-seed0") / "last.pt").exists()


def test_a_torn_part_is_set_aside_and_its_trial_runs_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    plan = plan_of(fake_trial(0), fake_trial(1))
    run_in_process(plan, tmp_path)
    part = tmp_path / "trials" / "fake-seed0.1.parquet"
    torn = part.read_bytes()[:-7]
    part.write_bytes(torn)
    capsys.readouterr()
    assert run_in_process(plan, tmp_path).completed == 2
    assert "fake-seed0.1.parquet could not be read" in capsys.readouterr().out
    assert (tmp_path / "quarantine" / "trials" / part.name).read_bytes() == torn
    assert starts(tmp_path) == ["fake-seed0 1", "fake-seed1 1", "fake-seed0 1"]


def test_a_folder_named_like_a_part_is_moved_to_quarantine(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "trials" / "notes.parquet").mkdir(parents=True)
    assert run_in_process(plan_of(fake_trial(0)), tmp_path).completed == 1
    assert f"notes.parquet could not be read and was moved to {tmp_path}/quarantine" in capsys.readouterr().out
    assert (tmp_path / "quarantine" / "trials" / "notes.parquet").is_dir()


def test_a_checkpoint_left_after_the_row_is_removed(tmp_path: Path) -> None:
    plan = plan_of(fake_trial(0))
    run_in_process(plan, tmp_path)
    left = StudyPaths(tmp_path).checkpoint("fake-seed0")
    left.mkdir(parents=True)
    run_in_process(plan, tmp_path)
    assert not left.exists()


def test_a_completed_attempt_counts_whenever_it_was(tmp_path: Path) -> None:
    list(run_trial(job_of(fake_trial(0)), tmp_path))
    write_result(tmp_path, failed_row(job_of(fake_trial(0), 2), "later"), ())
    assert select_outcomes(read_rows(tmp_path)[0])["status"].to_dict() == {"fake-seed0": "completed"}


def test_an_executor_that_cannot_run_the_trials_leaves_nothing(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has the GPU that must be missing")
    with pytest.raises(UserError, match=r"takes 0\.5 GPUs .* this machine has 0"):
        run_in_process(plan_of(fake_trial(0, gpus=0.5)), tmp_path)
    assert read_rows(tmp_path)[0].empty
