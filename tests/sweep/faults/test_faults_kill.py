"""Killed, interrupted and preempted runs: no finished trial is lost or runs again."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_training import starts
from fault_study import TRIALS, cost, launch, run, stored, study, wait_for
from real_runs import worker_processes

from sweep.errors import UserError
from sweep.executors.ray_tune.scratch import PREFIX
from sweep.report.status import describe, read_status
from sweep.store.lock import lock_study
from sweep.store.study import read_epochs, read_rows

Launch = Callable[..., subprocess.Popen[str]]
TIMES = ["wall_time_s", "started_at", "finished_at", "git_commit"]


@pytest.fixture
def start() -> Iterator[Launch]:
    """Start studies as processes; kill those left when the test ends."""
    processes: list[subprocess.Popen[str]] = []

    def started(*arguments: object, **options: object) -> subprocess.Popen[str]:
        processes.append(launch(*arguments, **options))  # type: ignore[arg-type]
        return processes[-1]

    yield started
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def repeated_epochs(folder: Path) -> dict[str, int]:
    """Return by trial how many epochs ran more than once; the log of starts names the first epoch of each start."""
    begun: dict[str, list[int]] = {}
    for line in starts(folder):
        trial, first = line.split()
        begun.setdefault(trial, []).append(int(first))
    return {trial: sum(b <= a for a, b in itertools.pairwise(firsts)) for trial, firsts in begun.items()}


def assert_whole(folder: Path, undisturbed: Path) -> None:
    """Assert that each trial is stored once, with the numbers of an undisturbed study."""
    for read in (read_rows, read_epochs):
        here, there = (
            frame.drop(columns=[name for name in TIMES if name in frame])
            for frame in (read(folder)[0], read(undisturbed)[0])
        )
        assert here.equals(there)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "study"
    assert run(folder).completed == TRIALS
    return folder


@pytest.mark.parametrize("kind", ["trains", "workers", "servers"])
@pytest.mark.long  # once in test_driver.py, with real training
def test_a_worker_killed_in_an_epoch(
    nth_try: int, kind: str, tmp_path: Path, start: Launch, tally: Callable, undisturbed: Path
) -> None:
    process = start(tmp_path, "--executor", "ray", epoch_s=0.6)
    wait_for(lambda: stored(tmp_path), process)
    wait_for(lambda: "1" in (file.read_text() for file in tmp_path.glob("checkpoints/*/last.pt")), process)
    time.sleep(random.Random(nth_try).uniform(0, 0.4))
    before, begun = stored(tmp_path), len(starts(tmp_path))
    for worker in worker_processes(kind, process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output
    assert "its worker process died; resuming from its checkpoint" in output
    assert_whole(tmp_path, undisturbed)
    assert max(repeated_epochs(tmp_path).values()) <= 1
    tally(f"kill -9 of workers in an epoch ({kind})", **cost(tmp_path, before, begun))


@pytest.mark.parametrize("executor", ["ray", "here"])
def test_a_killed_driver(
    nth_try: int, executor: str, tmp_path: Path, start: Launch, tally: Callable, undisturbed: Path
) -> None:
    process = start(tmp_path, "--executor", executor, epoch_s=0.2)
    wait_for(lambda: len(stored(tmp_path)) >= 2, process)
    time.sleep(random.Random(nth_try).uniform(0, 0.4))
    scratch = scratch_of(tmp_path)
    assert bool(scratch) == (executor == "ray")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for_the_end_of_ray(tmp_path)
    assert not any(map(os.path.exists, scratch))
    before, begun = stored(tmp_path), len(starts(tmp_path))
    assert run(tmp_path).completed == TRIALS
    assert_whole(tmp_path, undisturbed)
    assert max(repeated_epochs(tmp_path).values()) <= 1
    again = [line.split()[0] for line in starts(tmp_path)[begun:]]
    assert len(again) == len(set(again)) == TRIALS - len(before)
    tally(f"kill -9 of the driver ({'Ray' if executor == 'ray' else 'in process'})", **cost(tmp_path, before, begun))


def wait_for_the_end_of_ray(folder: Path) -> None:
    """Wait until Ray's processes have ended; they may write until they notice that the driver is gone."""
    deadline = time.monotonic() + 30
    while rays_commands(folder):
        assert time.monotonic() < deadline, "Ray outlives its driver"
        time.sleep(0.05)


def scratch_of(folder: Path) -> set[str]:
    """Return the folders where Ray's processes have their temporary files."""
    return set(re.findall(rf"[^\0 =]*/{PREFIX}\w+", "\0".join(rays_commands(folder))))


def rays_commands(folder: Path) -> list[str]:
    """Return the command lines of Ray's processes that belong to a study."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"FAULT_STUDY={folder}\0".encode() in (process / "environ").read_bytes():
                command = (process / "cmdline").read_text(errors="replace")
                found += [command] if "ray" in command else []
    return found


@pytest.mark.parametrize("call", ["link", "replace"])
def test_a_driver_killed_before_a_temporary_file_gets_its_name(
    nth_try: int, call: str, tmp_path: Path, start: Launch, tally: Callable, undisturbed: Path
) -> None:
    # rows get their name by link, once a trial; plan, progress, curve and checkpoint by replace, many times
    n = 3 if call == "link" else 12
    n += nth_try if call == "replace" else nth_try % 4
    process = start(tmp_path, f"--kill-at-{call}", str(n), epoch_s=0)
    output, _ = process.communicate(timeout=150)
    assert process.returncode == -signal.SIGKILL, output
    assert [*tmp_path.glob("**/.*.tmp"), *tmp_path.glob("checkpoints/*/*tmp*"), *tmp_path.glob("**/.last*")]
    before, begun = stored(tmp_path), len(starts(tmp_path))
    assert len(read_rows(tmp_path)[0]) == len(before)
    assert read_rows(tmp_path)[1] == []
    assert run(tmp_path).completed == TRIALS
    assert_whole(tmp_path, undisturbed)
    tally(f"kill -9 between temporary file and {call}", **cost(tmp_path, before, begun))


@pytest.mark.long  # once in test_runner.py, in one process
def test_ctrl_c(nth_try: int, tmp_path: Path, start: Launch, tally: Callable, undisturbed: Path) -> None:
    process = start(tmp_path, "--executor", "ray", epoch_s=0.2)
    wait_for(lambda: stored(tmp_path), process)
    time.sleep(random.Random(nth_try).uniform(0, 0.4))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    before, begun = stored(tmp_path), len(starts(tmp_path))
    assert f"Stopped: {len(before)} of {TRIALS} trials are stored." in output
    assert run(tmp_path).completed == TRIALS
    assert_whole(tmp_path, undisturbed)
    assert max(repeated_epochs(tmp_path).values()) <= 1
    tally("Ctrl-C", **cost(tmp_path, before, begun))


@pytest.mark.parametrize("grace", [30.0, pytest.param(0.0, marks=pytest.mark.long)])
def test_sigterm_lets_running_epochs_end(
    nth_try: int, grace: float, tmp_path: Path, start: Launch, tally: Callable, undisturbed: Path
) -> None:
    process = start(tmp_path, "--executor", "ray", "--grace", str(grace), epoch_s=1.0 if grace else 0.3)
    wait_for(lambda: len(list(tmp_path.glob("checkpoints/*/last.pt"))) >= 1, process)
    time.sleep(0.2)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 130, output
    assert time.monotonic() - began < 25
    assert f"asked to end (SIGTERM); epochs that end within {grace:g} s still count" in output
    before, begun = stored(tmp_path), len(starts(tmp_path))
    epochs = {file.parent.name: int(file.read_text()) for file in tmp_path.glob("checkpoints/*/last.pt")}
    assert epochs or not grace
    assert run(tmp_path).completed == TRIALS
    resumed = dict(line.split() for line in starts(tmp_path)[begun:])
    assert all(int(resumed[trial]) == epoch + 1 for trial, epoch in epochs.items())
    assert_whole(tmp_path, undisturbed)
    tally(f"SIGTERM with {grace:g} s of grace", **cost(tmp_path, before, begun))


def test_two_drivers(nth_try: int, tmp_path: Path, start: Launch, tally: Callable, undisturbed: Path) -> None:
    first = start(tmp_path, epoch_s=0.1)
    wait_for(lambda: list(tmp_path.glob("checkpoints/*/last.pt")), first)
    os.kill(first.pid, signal.SIGSTOP)  # it may be slow, and holds the study all the same
    second = start(tmp_path)
    output, _ = second.communicate(timeout=150)
    assert second.returncode == 2
    assert f"another process runs this study: pid {first.pid} on " in output
    assert f"run by process {first.pid} on " in describe(read_status(tmp_path))
    with pytest.raises(UserError, match=f"pid {first.pid} "), lock_study(tmp_path):
        pass
    os.kill(first.pid, signal.SIGCONT)
    output, _ = first.communicate(timeout=150)
    assert first.returncode == 0, output
    assert_whole(tmp_path, undisturbed)
    assert len(starts(tmp_path)) == len(study().trials)
    tally("a second driver on the study", lost=0, repeated=len(starts(tmp_path)) - len(study().trials))


def test_a_clock_that_jumps(nth_try: int, tmp_path: Path, start: Launch, tally: Callable, undisturbed: Path) -> None:
    process = start(tmp_path, "--clock-jumps", epoch_s=0.15)
    wait_for(lambda: stored(tmp_path), process)
    wait_for(lambda: list(tmp_path.glob("checkpoints/*/last.pt")), process)
    os.kill(process.pid, signal.SIGSTOP)
    states = [trial.state for trial in read_status(tmp_path).trials]
    assert states.count("running") <= 1
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before, begun = stored(tmp_path), len(starts(tmp_path))
    again = start(tmp_path, "--clock-jumps", epoch_s=0)
    output, _ = again.communicate(timeout=150)
    assert again.returncode == 0, output
    assert "-" not in output.split("to train")[0]  # no negative time on the screen
    assert (read_rows(tmp_path)[0]["wall_time_s"] > 0).all()
    assert_whole(tmp_path, undisturbed)
    tally("the clock jumps by hours, there and back", **cost(tmp_path, before, begun))
