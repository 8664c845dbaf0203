"""Files whose names begin with a dot, which other programs leave in a study, change nothing and stay there."""

import shutil
from pathlib import Path

import pytest
from fake_training import FakeTrainer, fake_measure, fake_trial, plan_of, run_in_process

from sweep.grid.search import EarlyStop
from sweep.report.status import describe, read_status
from sweep.store import study as store
from sweep.store.compaction.compact import compact
from sweep.store.rungs import continues, fold_rungs

FOLDERS = (
    "trials", "epochs", "measurements", "compacted", "checkpoints", "checkpoints/fake-seed9", "rungs", "rungs/vim_nano",
    "rungs/vim_nano/1", "logs", "quarantine", "quarantine/trials", "report",
)  # fmt: skip


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Return a study of two completed trials, one missing, and arrivals at a rung."""
    monkeypatch.setattr("famba_core.training.trainer.Trainer", FakeTrainer)
    monkeypatch.setattr("sweep.worker.measure.measure", fake_measure(tmp_path / "measured.txt"))
    folder = tmp_path / "study"
    run_in_process(plan_of(*map(fake_trial, range(3))), folder, limit=2)
    for i, value in enumerate((3.0, 2.0, 1.0)):
        continues(folder, "vim_nano", f"fake-seed{i}", 1, value, EarlyStop(min_epochs=1, reduction_factor=2))
    return folder


def leave_hidden_files(folder: Path) -> dict[Path, bytes]:
    """Leave files of a file manager, a network file system and a copying program everywhere; return their contents."""
    left = {}
    for place in (folder, *(folder / name for name in FOLDERS)):
        place.mkdir(parents=True, exist_ok=True)
        names = [".DS_Store", ".nfs0000000a", "._plan.json", "._fake-seed0.1.parquet", "._note.txt", ".syncthing.x.tmp"]
        names += [f"._{path.name}" for path in place.iterdir() if path.is_file()]
        left |= {place / name: b"\x00\x05\x16\x07" for name in names}
    left[folder / "rungs/.snapshot/1/fake-seed0=9.0=goes_on"] = b""
    for path, content in left.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return left


def test_status_reads_resume_and_compaction_pass_them_over(study):
    plain = shutil.copytree(study, study.parent / "plain")
    left = leave_hidden_files(study)

    assert describe(read_status(study)) == describe(read_status(plain))
    fold_rungs(study)
    assert [path.name for path in (study / "rungs/vim_nano/1").glob("[!.]*")] == ["folded"]
    run_in_process(plan_of(*map(fake_trial, range(3))), study)
    assert compact(study).quarantined == ()
    rows, damaged = store.read_rows(study)
    assert (len(rows), damaged) == (3, [])
    assert describe(read_status(study)) == "3 trials planned: 3 completed"
    assert {path: path.read_bytes() for path in left} == left
