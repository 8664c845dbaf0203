"""Ray dies, hangs or does not start: the run ends with an error, leaves no process, and continues later."""

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


class RayKillingExecutor(RayExecutor):
    """Kills one of Ray's servers, or the process that hosts Ray, after the first epoch."""

    victim: str | None = None  # the server's name; None is the process that hosts Ray
    killed_at: float | None = None

    def poll(self, timeout_s: float) -> list[Event]:
        events = super().poll(timeout_s)
        if self.killed_at is None and any(map(ended_epoch, events)):
            RayKillingExecutor.killed_at = time.monotonic()
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
        ("raylet", "raylet died|its process ended"),  # Ray may end its process before that notices
        pytest.param("gcs_server", "gcs_server died|its process ended", marks=pytest.mark.long),
        pytest.param(None, "its process ended", marks=pytest.mark.long),
    ],
    ids=["raylet", "gcs_server", "process"],
)
def test_a_run_ends_when_ray_dies_and_continues_later(
    victim: str | None,
    reason: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
    left: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RayKillingExecutor, "victim", victim)
    monkeypatch.setattr(RayKillingExecutor, "killed_at", None)
    monkeypatch.setenv("FAULT_EPOCH_S", "1")
    with pytest.raises(UserError, match=rf"Ray stopped working \(({reason})\); finished trials are stored"):
        run(tmp_path, executor=partial(RayKillingExecutor, run=faulty_job))
    assert time.monotonic() - RayKillingExecutor.killed_at < 30
    assert left() == []
    output = capfd.readouterr()
    assert output.err == ""
    assert all(line.startswith(("fake-seed", f"{TRIALS} of {TRIALS} trials")) for line in output.out.splitlines())
    assert read_rows(tmp_path)[0].empty
    monkeypatch.setenv("FAULT_EPOCH_S", "0")
    assert run(tmp_path).completed == TRIALS


@pytest.mark.long
def test_close_kills_a_process_that_hangs(
    tmp_path: Path, left: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "CLOSE_TIMEOUT_S", 0.5)
    executor = RayExecutor(tmp_path, resources_of(fake_trial(0)), run=run_job)
    executor._process.send_signal(signal.SIGSTOP)
    executor.close()
    executor.close()
    assert left() == []
    assert not executor._scratch.folder.exists()


def test_an_exception_in_rays_process_reaches_the_driver_with_its_traceback(
    tmp_path: Path, left: Callable[[], list[str]]
) -> None:
    executor = RayExecutor(tmp_path, resources_of(fake_trial(0)), run=run_job)
    executor.submit(SimpleNamespace(job_id="without resources"))
    with pytest.raises(RuntimeError, match=r"(?s)in _request_resources.*has no attribute 'resources'"):
        executor.poll(60)
    executor.close()
    assert left() == []


def test_a_process_that_does_not_start_is_an_error(
    tmp_path: Path, left: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=r"Ray does not start \(on this machine\): its process ended"):
        RayExecutor(tmp_path, resources_of(fake_trial(0)), run=run_job)
    assert left() == []


@pytest.mark.long
def test_a_request_larger_than_this_machine_is_an_error_before_the_run(
    tmp_path: Path, left: Callable[[], list[str]]
) -> None:
    with pytest.raises(UserError, match=r"takes 4096 CPUs and 0 GPUs .* The machines have: \d+ CPUs and "):
        RayExecutor(tmp_path, resources_of(fake_trial(0, cpus=4096)), run=run_job)
    assert left() == []


def test_an_address_without_a_listener_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # but does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"--address {address}: no Ray cluster answers there"):
            RayExecutor(tmp_path, resources_of(fake_trial(0)), run=run_job, address=address)
