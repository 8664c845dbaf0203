"""What a trial leaves behind, however it ends."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fake_training import FAULTS, SCHEDULE, FakeTrainer, fake_trial, job_of, starts

from famba_core.config import ConfigError, FusionSchedule
from sweep.files.code import code_hash
from sweep.schema import ResultRow
from sweep.store.layout import StudyPaths
from sweep.store.progress import TrialProgress
from sweep.store.study import read_epochs, read_rows, write_result
from sweep.worker.errors import OutOfMemory
from sweep.worker.rows import failed_row, planned_columns
from sweep.worker.trial import run_trial


@pytest.fixture(autouse=True)
def fake_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("famba_core.training.trainer.Trainer", FakeTrainer)


def run_to_end(seed: int, folder: Path, attempt: int = 1) -> ResultRow:
    epochs = run_trial(job_of(fake_trial(seed), attempt), folder)
    while True:
        try:
            next(epochs)
        except StopIteration as end:
            return end.value


def test_a_completed_trial_stores_its_row_and_curve_and_clears_its_checkpoint(tmp_path: Path) -> None:
    row = run_to_end(0, tmp_path)
    assert (row.status, row.error, row.attempt) == ("completed", None, 1)
    # planned: 65 tokens in 12 layers, then one fewer in each of the other 12
    assert (row.schedule, row.reduced_tokens) == (SCHEDULE, 12)
    assert row.tokens_per_image == 12 * 65 + sum(65 - i for i in range(1, 13))
    assert (row.strategy, row.start_layer, row.stop_layer, row.r, row.patch_size) == ("upper", 13, None, 1, 4)
    # measured: the best epoch is not the last
    assert (row.top1_pct, row.top1_best_pct, row.best_epoch, row.top1_ema_pct) == (20.0, 30.0, 2, None)
    assert (row.final_loss, row.measured, row.peak_memory_mib) == (pytest.approx(2 / 3), "in_training", 1.5)
    assert row.started_at
    assert row.finished_at
    assert 0 < row.wall_time_s <= (row.finished_at - row.started_at).total_seconds() + 0.01
    stored, damaged = read_rows(tmp_path)
    assert not damaged
    assert stored.loc[0, "trial_id"] == row.trial_id
    assert stored.loc[0, "finished_at"] == row.finished_at
    assert read_epochs(tmp_path)[0]["top1_pct"].tolist() == [10.0, 30.0, 20.0]
    assert stored.loc[0, "code_hash"] == code_hash()
    assert not StudyPaths(tmp_path).checkpoint(row.trial_id).exists()


def test_the_commit_is_that_of_this_checkout() -> None:
    checkout = Path(__file__).parents[3]
    if not (checkout / ".git").exists():
        pytest.skip("these sources are not a git checkout")
    git = ["git", "-C", str(checkout)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    assert failed_row(job_of(fake_trial(0)), "lost").git_commit == head + ("-dirty" if changed else "")


def test_an_interrupted_trial_resumes_after_its_last_epoch(tmp_path: Path) -> None:
    epochs = run_trial(job_of(fake_trial(0)), tmp_path)
    first = next(epochs)
    epochs.close()
    left = TrialProgress.read(StudyPaths(tmp_path).checkpoint("fake-seed0"))
    assert read_rows(tmp_path)[0].empty
    assert left
    assert (left.epoch, left.epochs, first.epoch) == (1, 3, 1)

    row = run_to_end(0, tmp_path)
    assert starts(tmp_path) == ["fake-seed0 1", "fake-seed0 2"]
    assert read_epochs(tmp_path)[0]["epoch"].tolist() == [1, 2, 3]
    assert row.started_at
    assert row.started_at.isoformat() == left.started_at
    assert row.wall_time_s
    assert row.wall_time_s > left.wall_time_s


def test_another_attempt_starts_its_own_clock(tmp_path: Path) -> None:
    checkpoint = StudyPaths(tmp_path).checkpoint("fake-seed0")
    old = TrialProgress(attempt=1, epoch=1, epochs=3, started_at="2020-01-01T00:00:00+00:00", wall_time_s=1e6)
    old.write(checkpoint)
    row = run_to_end(0, tmp_path, attempt=2)
    assert row.wall_time_s
    assert row.wall_time_s < 1e3
    assert row.started_at
    assert row.started_at.year > 2020


def test_an_interrupt_leaves_the_checkpoint_and_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = run_trial(job_of(fake_trial(0)), tmp_path)
    next(epochs)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(epochs)
    assert read_rows(tmp_path)[0].empty
    assert (StudyPaths(tmp_path).checkpoint("fake-seed0") / "last.pt").exists()


@pytest.mark.parametrize(
    ("seed", "error", "exception"),
    [
        (101, "the training loss is nan in epoch 2 of 3 (", "NonFiniteLoss"),
        (102, "ZeroDivisionError: division by zero (", "with more to say"),
    ],
)
def test_a_failed_trial_says_why(tmp_path: Path, seed: int, error: str, exception: str) -> None:
    row = run_to_end(seed, tmp_path)
    assert row.status == "failed"
    assert row.error
    assert row.error.startswith(error)
    log = f"logs/fake-seed{seed}.1.txt"
    assert log in row.error
    assert exception in (tmp_path / log).read_text()
    assert (row.top1_pct, row.best_epoch) == (10.0, 1)  # of the epoch that ended before
    assert (row.parameters, row.train_time_s, row.peak_memory_mib, row.measured) == (None, None, None, None)
    assert read_rows(tmp_path)[0]["error"].tolist() == [row.error]
    assert len(read_epochs(tmp_path)[0]) == 1
    # another try goes on from the last epoch, but for a loss that would become infinite again
    assert StudyPaths(tmp_path).checkpoint(row.trial_id).exists() == ("loss is nan" not in error)


@pytest.mark.parametrize(
    ("seed", "error", "exception"),
    [
        (103, "out of memory with batches of 32 images", "MemoryError"),
        (104, "out of memory with batches of 32 images: [enforce fail", "DefaultCPUAllocator"),
    ],
)
def test_out_of_memory_keeps_the_checkpoint_and_stores_no_row(
    tmp_path: Path, seed: int, error: str, exception: str
) -> None:
    with pytest.raises(OutOfMemory) as caught:
        run_to_end(seed, tmp_path)
    log = f"logs/fake-seed{seed}.1.txt"
    assert str(caught.value).startswith(error)
    assert log in str(caught.value)
    assert exception in (tmp_path / log).read_text()
    assert read_rows(tmp_path)[0].empty
    assert (StudyPaths(tmp_path).checkpoint(f"fake-seed{seed}") / "last.pt").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_failing_folder_does_not_fail_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setitem(FAULTS, 105, OSError(number, "of the folder"))
    with pytest.raises(OSError, match="of the folder"):
        run_to_end(105, tmp_path)
    assert read_rows(tmp_path)[0].empty


def test_a_trial_that_cannot_start_is_a_failed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**arguments: object) -> None:
        raise ValueError("no such data set")

    monkeypatch.setattr("famba_core.training.trainer.Trainer", refuse)
    row = run_to_end(0, tmp_path)
    assert (row.status, row.top1_pct, row.final_loss) == ("failed", None, None)
    assert row.error
    assert row.error.startswith("ValueError: no such data set (")


def test_a_checkpoint_of_another_run_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Particular(FakeTrainer):
        def __init__(self, *, checkpoint: Path, **rest: Any) -> None:
            file = checkpoint / "last.pt"
            if file.exists() and file.read_text() == "other":
                raise ConfigError.of("checkpoint", f"{file} is of another run")
            super().__init__(checkpoint=checkpoint, **rest)

    monkeypatch.setattr("famba_core.training.trainer.Trainer", Particular)
    checkpoint = StudyPaths(tmp_path).checkpoint("fake-seed0")
    checkpoint.mkdir(parents=True)
    (checkpoint / "last.pt").write_text("other")
    assert run_to_end(0, tmp_path).status == "completed"
    assert starts(tmp_path) == ["fake-seed0 1"]


def test_the_checkpoint_stays_until_the_row_is_safe(tmp_path: Path) -> None:
    write_result(tmp_path, failed_row(job_of(fake_trial(0)), "stored by someone else"), ())
    with pytest.raises(FileExistsError):
        run_to_end(0, tmp_path)
    assert (StudyPaths(tmp_path).checkpoint("fake-seed0") / "last.pt").read_text() == "3"
    assert read_rows(tmp_path)[0]["error"].tolist() == ["stored by someone else"]


def test_the_trainer_gets_the_planned_settings_without_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeTrainer] = []

    class Remembered(FakeTrainer):
        def __init__(self, **arguments: object) -> None:
            super().__init__(**arguments)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr("famba_core.training.trainer.Trainer", Remembered)
    trial = fake_trial(0, cpus=2)
    list(run_trial(job_of(trial), tmp_path))
    list(run_trial(job_of(fake_trial(1, gpus=0.5)), tmp_path))
    assert made[0].arguments == {
        "model": trial.model,
        "data": trial.data,
        "augment": trial.augment,
        "train": trial.train,
        "threads": 2,
        "device": "cpu",
        "fusion": FusionSchedule(schedule=SCHEDULE),
    }
    assert made[1].arguments["device"] == "cuda"


def test_planned_columns_are_columns() -> None:
    assert set(planned_columns(job_of(fake_trial(0)))) < set(ResultRow.__dataclass_fields__)
