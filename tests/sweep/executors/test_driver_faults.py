"""A Ray that dies, hangs or does not come up: the run ends with a sentence, nothing stays behind, it goes on later."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_training import fake_trial, resources_of
from fault_study import TRIALS, faulty_job, run
from real_runs import descendants, ended_epoch

from sweep.errors import UserError
from sweep.executors.base import Event
from sweep.executors.ray_tune import executor as ray_executor
from sweep.executors.ray_tune.executor import RayExecutor
from sweep.store.study import read_rows
from sweep.worker.job import run_job


class BreakingExecutor(RayExecutor):
    """Kills one of Ray's own processes, or the one that Ray lives in, when the first epoch has ended."""

    victim: str | None = None
    broken_at: float | None = None

    def poll(self, timeout_s: float) -> list[Event]:
        events = super().poll(timeout_s)
        if self.broken_at is None and any(map(ended_epoch, events)):
            BreakingExecutor.broken_at = time.monotonic()
            (pid,) = (
                [process.pid for process in descendants() if process.name() == self.victim]
                if self.victim
                else [self._process.pid]
            )
            os.kill(pid, signal.SIGKILL)
        return events


@pytest.mark.parametrize(
    ("victim", "reason"),
    [
        ("raylet", "raylet died|its process ended"),  # whichever is first: Ray ends its process, or that looks
        pytest.param("gcs_server", "gcs_server died|its process ended", marks=pytest.mark.long),
        pytest.param(None, "its process ended", marks=pytest.mark.long),
    ],
    ids=["raylet", "gcs_server", "process"],
)
def test_a_run_whose_ray_dies_ends_and_goes_on_later(
    victim: str | None,
    reason: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
    left: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BreakingExecutor, "victim", victim)
    monkeypatch.setattr(BreakingExecutor, "broken_at", None)
    monkeypatch.setenv("FAULT_EPOCH_S", "1")
    with pytest.raises(UserError, match=rf"Ray itself has stopped working \(({reason})\); what has ended is stored"):
        run(tmp_path, executor=partial(BreakingExecutor, run=faulty_job))
    assert time.monotonic() - BreakingExecutor.broken_at < 30
    assert left() == []
    output = capfd.readouterr()
    assert output.err == ""
    assert all(line.startswith(("fake-seed", f"{TRIALS} of {TRIALS} trials")) for line in output.out.splitlines())
    assert read_rows(tmp_path)[0].empty
    monkeypatch.setenv("FAULT_EPOCH_S", "0")
    assert run(tmp_path).completed == TRIALS


@pytest.mark.long
def test_a_hanging_ray_is_closed_all_the_same(
    tmp_path: Path, left: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "CLOSE_TIMEOUT_S", 0.5)
    executor = RayExecutor(tmp_path, resources_of(fake_trial(0)), run=run_job)
    executor._process.send_signal(signal.SIGSTOP)
    executor.close()
    executor.close()
    assert left() == []
    assert not executor._scratch.folder.exists()


def test_a_defect_in_rays_process_comes_with_its_traceback(tmp_path: Path, left: Callable[[], list[str]]) -> None:
    executor = RayExecutor(tmp_path, resources_of(fake_trial(0)), run=run_job)
    executor.submit(SimpleNamespace(trial_id="neither CPUs nor GPUs"))
    with pytest.raises(RuntimeError, match=r"(?s)in _resources.*has no attribute 'cpus_per_trial'"):
        executor.poll(60)
    executor.close()
    assert left() == []


def test_a_process_that_does_not_come_up(
    tmp_path: Path, left: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=r"Ray does not start \(on this machine\): its process ended"):
        RayExecutor(tmp_path, resources_of(fake_trial(0)), run=run_job)
    assert left() == []


@pytest.mark.long
def test_what_no_machine_has_is_refused_before_anything_runs(tmp_path: Path, left: Callable[[], list[str]]) -> None:
    with pytest.raises(UserError, match=r"takes 4096 CPUs and 0 GPUs .* There is: \d+ CPUs and "):
        RayExecutor(tmp_path, resources_of(fake_trial(0, cpus=4096)), run=run_job)
    assert left() == []


def test_an_address_where_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"--address {address}: no Ray cluster answers there"):
            RayExecutor(tmp_path, resources_of(fake_trial(0)), run=run_job, address=address)
