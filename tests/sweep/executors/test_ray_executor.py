"""Real training through Ray Tune: workers and the driver are killed, runs continue, and no process is left running."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import real_runs
from fake_training import screen_of
from real_runs import LINES, descendants, ended_epoch, real_plan, worker_processes

from sweep.executors.base import Event, ResourceRequest, Started
from sweep.executors.local import LocalExecutor
from sweep.executors.ray_tune.executor import RayExecutor
from sweep.run.runner import run_plan
from sweep.store.layout import StudyPaths
from sweep.store.study import read_epochs, read_measurements, read_rows
from sweep.worker.job import run_job, warm_up

TIMES = [
    "train_time_s",
    "isolated_train_time_s",
    "wall_time_s",
    "step_time_ms",
    "throughput_img_per_s",
    "started_at",
    "finished_at",
]


class KillingExecutor(RayExecutor):
    """Once, after the first epoch, kills every process that trains and signals Ray's process as a batch system does."""

    killed = 0
    addresses: frozenset[str] | set[str] = frozenset()

    def poll(self, timeout_s: float) -> list[Event]:
        events = super().poll(timeout_s)
        if not self.addresses and any(isinstance(event, Started) for event in events):  # not while short epochs run
            self.addresses = listening_addresses()
        if not self.killed and any(map(ended_epoch, events)):
            for pid in worker_processes("trains"):
                os.kill(pid, signal.SIGKILL)
                type(self).killed += 1
            for number in (signal.SIGINT, signal.SIGTERM):
                self._process.send_signal(number)
        return events


def listening_addresses() -> set[str]:
    import ray  # noqa: F401 - brings psutil along
    import psutil  # isort: skip

    found = set()
    for process in descendants():
        with contextlib.suppress(psutil.Error):  # the process has just ended
            found |= {at.laddr.ip for at in process.net_connections() if at.status == "LISTEN"}
    return found


@pytest.fixture
def other_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a cluster's machine: variables that name other clusters, and a TMPDIR too long for sockets."""
    monkeypatch.setenv("RAY_ADDRESS", "10.255.255.1:6379")
    monkeypatch.setenv("RAY_REDIS_ADDRESS", "10.255.255.1:6379")
    monkeypatch.setenv("RAY_TMPDIR", "/nowhere")
    monkeypatch.setenv("RAY_USE_TLS", "1")
    monkeypatch.setenv("RAY_RUNTIME_ENV_HOOK", "nowhere.hook")
    (long := tmp_path / ("x" * 150)).mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.mark.usefixtures("other_clusters")
def test_killed_workers_resume_and_give_the_rows_of_an_uninterrupted_run(
    tmp_path: Path, capfd: pytest.CaptureFixture, left: Callable[[], list[str]]
) -> None:
    plan = real_plan(epochs=6)  # so many that none finishes before its worker is killed
    executors: list[KillingExecutor] = []

    def start(folder: Path, request: ResourceRequest) -> KillingExecutor:
        executors.append(KillingExecutor(folder, request, run=run_job, warm_up=warm_up))
        return executors[-1]

    summary = run_plan(plan, tmp_path / "ray", start, listeners=[screen_of(plan)])
    output = capfd.readouterr()
    assert summary.completed == 2
    assert len(read_measurements(tmp_path / "ray")[0]) == 1
    assert read_rows(tmp_path / "ray")[0]["measured"].tolist() == ["isolated"] * 2
    assert executors[0].killed >= 1
    assert "its worker process died; resuming from its checkpoint" in output.out
    assert all(line.startswith(LINES) for line in output.out.splitlines())
    assert output.err == ""
    assert executors[0].addresses
    assert all(address.removeprefix("::ffff:").startswith("127.") for address in executors[0].addresses)
    assert left() == []
    assert not executors[0]._scratch.folder.exists()
    log = StudyPaths(tmp_path / "ray").run_log.read_text()
    for trial in plan.trials:
        assert re.search(rf"(?m)^\S+Z \S+ INFO {trial.trial_id}: attempt 1 starts after epoch 0$", log)
        assert re.search(rf"(?m)^\S+Z \S+ INFO {trial.trial_id}: epoch 6/6, ", log)
        assert re.search(rf"(?m)^\S+Z \S+ INFO {trial.trial_id}: completed$", log)
    assert re.search(r"(?m)^\S+Z \S+ INFO \S+: attempt 1 starts after epoch [1-9]\d*$", log)  # the killed one
    assert len(set(re.findall(r"(?m)^\S+Z (\S+) ", log))) > 2  # processes: the driver and its workers

    run_plan(plan, tmp_path / "here", partial(LocalExecutor, run=run_job), listeners=[screen_of(plan)])
    for read, times in ((read_rows, TIMES), (read_epochs, ["train_time_s"])):
        by_ray, here = (read(tmp_path / folder)[0].drop(columns=times) for folder in ("ray", "here"))
        pd.testing.assert_frame_equal(by_ray, here, check_exact=True)


SCRIPT = """
import sys
from pathlib import Path
from fake_training import screen_of
from real_runs import real_plan
from functools import partial
from sweep.executors.ray_tune.executor import RayExecutor
from sweep.worker.job import run_job
from sweep.run.runner import run_plan
plan = real_plan(epochs=int(sys.argv[2]))
summary = run_plan(plan, Path(sys.argv[1]), partial(RayExecutor, run=run_job), listeners=[screen_of(plan)])
assert "ray" not in sys.modules
sys.exit(summary.exit_code)
"""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_driver_leaves_no_worker_and_its_study_resumes(tmp_path: Path, number: int) -> None:
    import ray  # noqa: F401 - brings psutil along
    import psutil  # isort: skip

    command = [sys.executable, "-c", SCRIPT, str(tmp_path), "10"]
    environment = os.environ | {"PYTHONPATH": str(Path(real_runs.__file__).parent)}
    sweep = subprocess.Popen(command, env=environment, start_new_session=True)
    while len(list(tmp_path.glob("checkpoints/*/last.pt"))) < 2:
        assert sweep.poll() is None
        time.sleep(0.1)
    started = psutil.Process(sweep.pid).children(recursive=True)
    assert {"raylet", "gcs_server"} <= {process.name() for process in started}
    if number == signal.SIGKILL:
        os.kill(sweep.pid, number)
    else:
        os.killpg(sweep.pid, number)  # as Ctrl-C in a terminal
    assert sweep.wait(timeout=60) == (-9 if number == signal.SIGKILL else 130)
    _, alive = psutil.wait_procs(started, timeout=15)
    assert not [process for process in alive if process.status() != "zombie"]
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert read_rows(tmp_path)[0]["status"].tolist() == ["completed"] * 2
