"""Faults of a study's folder: torn files, a full disk, no rights. Intact files stay intact and readable."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_training import starts
from fault_study import TRIALS, cost, launch, run, stored, study

from sweep.cli.main import main
from sweep.store.study import read_rows


def test_a_torn_part(nth_try: int, tmp_path: Path, tally: Callable, capsys: pytest.CaptureFixture) -> None:
    run(tmp_path)
    chance = random.Random(nth_try)
    victim = tmp_path / "trials" / chance.choice(sorted(stored(tmp_path)))
    whole = victim.read_bytes()
    torn = bytearray(whole[: chance.randrange(len(whole))]) if nth_try % 2 == 0 else bytearray(whole)
    if len(torn) == len(whole):
        torn[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    victim.write_bytes(torn)
    others = {name: data for name, data in stored(tmp_path).items() if name != victim.name}
    rows, damaged = read_rows(tmp_path)
    harmless = not damaged  # a flipped bit may lie where nothing is read: then the row is as it was
    assert len(rows) == TRIALS if harmless else (damaged == [victim] and len(rows) == TRIALS - 1)
    capsys.readouterr()
    assert main(["status", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert harmless or f"{victim}: cannot be read" in shown
    begun = len(starts(tmp_path))
    assert run(tmp_path).completed == TRIALS
    assert len(starts(tmp_path)) - begun == (0 if harmless else 1)
    assert main(["status", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert harmless or victim.name in shown, "what was set aside stays in sight"
    tally("a torn or altered part (the others' results)", **cost(tmp_path, others, begun))


def mountable() -> bool:
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


needs_mount = pytest.mark.skipif(not mountable(), reason="mounting a small disk takes rights that are missing here")


STUDY = f"{sys.executable} {Path(__file__).parents[2]}/support/fault_study.py"


def on_disk(tmp_path: Path, script: str) -> None:
    """Run a script in a mount namespace of its own, so that the disks it mounts vanish when it ends."""
    file = tmp_path / "disk.sh"
    file.write_text(f"set -e\n{script}")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2] / "support"), *sys.path])}
    subprocess.run(["unshare", "-m", "bash", str(file)], check=True, env=environment, timeout=100)


@needs_mount
def test_a_full_disk(nth_try: int, tmp_path: Path, tally: Callable) -> None:
    """The study has a disk of its own, which is full after the second trial; later there is space again."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    on_disk(
        tmp_path,
        f"""
mount -t tmpfs -o size=600k tmpfs {disk}
export FAULT_EPOCH_S=0.05
{STUDY} {disk}/study > {tmp_path}/output 2>&1 &
study=$!
while [ $(ls {disk}/study/trials 2>/dev/null | wc -l) -lt 2 ]; do sleep 0.02; kill -0 $study; done
dd if=/dev/zero of={disk}/filler bs=1k count=2000 2>/dev/null || true
code=0; wait $study || code=$?
echo $code > {tmp_path}/code
rm {disk}/filler
cp -a {disk}/study {kept}
""",
    )
    output = (tmp_path / "output").read_text()
    assert (tmp_path / "code").read_text().strip() == "2", output
    assert "cannot be written: No space left on device" in output
    assert "Traceback" not in output
    before, begun = stored(kept), len(starts(kept))
    rows, damaged = read_rows(kept)
    assert damaged == []
    assert (rows["status"] == "completed").all()
    assert 2 <= len(rows) < TRIALS
    assert run(kept).completed == TRIALS
    tally("a full disk", **cost(kept, before, begun))


CHECKPOINT_OF_A_MODEL = """
import sys
from dataclasses import replace
from pathlib import Path
from fake_training import fake_trial, job_of
from famba_core.config import FusionConfig, FusionSchedule
from sweep.worker.job import run_job
from sweep.store.study import create_study, read_rows
folder = Path(sys.argv[1])
trial = fake_trial(0, epochs=2)
trial = replace(trial, model=replace(trial.model, image_size=8), fusion=FusionSchedule(schedule=(0,) * 24))
create_study(folder)
steps = run_job(job_of(trial), folder)
try:
    while True:
        print(next(steps))
except StopIteration as end:
    print(type(end.value).__name__, getattr(end.value, "folder_failed", None))
print(len(read_rows(folder)[0]), sorted(file.name for file in (folder / "checkpoints" / trial.trial_id).iterdir()))
"""


@needs_mount
def test_a_disk_too_small_for_a_checkpoint_does_not_fail_the_trial(tmp_path: Path) -> None:
    """The disk holds one checkpoint of torch, but not two."""
    disk, program = tmp_path / "disk", tmp_path / "program.py"
    disk.mkdir()
    program.write_text(CHECKPOINT_OF_A_MODEL)
    on_disk(
        tmp_path,
        f"mount -t tmpfs -o size=2m tmpfs {disk}\n{sys.executable} {program} {disk}/study > {tmp_path}/output 2>&1\n",
    )
    assert (tmp_path / "output").read_text().splitlines()[-2:] == ["Lost True", "0 ['last.pt', 'progress.json']"]


@needs_mount
def test_a_disk_that_is_full_before_the_run(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    on_disk(
        tmp_path,
        f"""
mount -t tmpfs -o size=600k tmpfs {disk}
dd if=/dev/zero of={disk}/filler bs=1k count=2000 2>/dev/null || true
code=0; {STUDY} {disk}/study > {tmp_path}/output 2>&1 || code=$?
echo $code > {tmp_path}/code
""",
    )
    output = (tmp_path / "output").read_text()
    assert (tmp_path / "code").read_text().strip() == "2", output
    assert output.startswith(f"{disk}/study: cannot be written: No space left on device"), output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process that has fewer rights")
def test_a_folder_without_rights(nth_try: int, tmp_path: Path, tally: Callable) -> None:
    tmp_path.chmod(0o755)
    folder = tmp_path / "study"
    run(folder, study((0, 1)))
    before = stored(folder)
    for place in (folder, *folder.rglob("*")):
        place.chmod(0o555 if place.is_dir() else 0o444)
    # Without root's privileges, and not as another user, who might not reach this Python.
    process = launch(folder, prefix=("setpriv", "--bounding-set=-all", "--inh-caps=-all"))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert f"{folder}: cannot be written: Permission denied" in output
    assert "Traceback" not in output
    for place in (folder, *folder.rglob("*")):
        place.chmod(0o755 if place.is_dir() else 0o644)
    begun = len(starts(folder))
    assert run(folder).completed == TRIALS
    tally("a folder without rights to write", **cost(folder, before, begun))


@needs_mount
def test_a_read_only_disk(nth_try: int, tmp_path: Path, tally: Callable) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    run(tmp_path / "study", study((0, 1)))
    on_disk(
        tmp_path,
        f"""
mount -t tmpfs tmpfs {disk}
cp -a {tmp_path}/study {disk}/study
mount -o remount,ro {disk}
code=0; {STUDY} {disk}/study > {tmp_path}/output 2>&1 || code=$?
echo $code > {tmp_path}/code
cp -a {disk}/study {kept}
""",
    )
    output = (tmp_path / "output").read_text()
    assert (tmp_path / "code").read_text().strip() == "2", output
    assert "cannot be written: Read-only file system" in output
    assert "Traceback" not in output
    before, begun = stored(kept), len(starts(kept))
    assert len(before) == 2
    assert run(kept).completed == TRIALS
    tally("a read-only disk", **cost(kept, before, begun))
