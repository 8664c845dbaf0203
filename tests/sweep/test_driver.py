"""Ray Tune for real: workers that train, are killed, and leave nothing running."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from fake_training import fake_trial, plan_of, screen_of

from famba_core.config import FusionConfig, ModelConfig
from sweep import driver
from sweep.driver import RayExecutor
from sweep.errors import UserError
from sweep.executor import Event, Progress
from sweep.in_process import InProcessExecutor
from sweep.measure import Measured
from sweep.plan import Plan, TrialPlan
from sweep.ray_process import capacity
from sweep.runner import run_plan
from sweep.store import read_epochs, read_measurements, read_rows

TIMES = [
    "train_time_s",
    "isolated_train_time_s",
    "wall_time_s",
    "step_time_ms",
    "throughput_img_per_s",
    "started_at",
    "finished_at",
]
LINES = ("real-seed", "2 of 2 trials to train", "measuring ")


def real_plan(epochs: int) -> Plan:
    """Two trials of five tokens on a few digits."""
    return plan_of(
        *(
            replace(
                fake_trial(seed, epochs=epochs),
                trial_id=f"real-seed{seed}",
                model=ModelConfig(backbone="vim_nano", image_size=8, num_classes=10),
                fusion=FusionConfig(schedule=(0,) * 22 + (1, 1)),
            )
            for seed in (0, 1)
        )
    )


def ended_epoch(event: Event) -> bool:
    return isinstance(event, Progress) and not isinstance(event.metrics, Measured)


class KillingExecutor(RayExecutor):
    """When the first epoch has ended, kills every worker that trains, and signals Ray's process as a batch system may.

    It does so once.
    """

    killed = 0
    addresses: set[str]

    def poll(self, timeout_s: float) -> list[Event]:
        events = super().poll(timeout_s)
        if not self.killed and any(map(ended_epoch, events)):
            self.addresses = listening_addresses()
            for number in (signal.SIGINT, signal.SIGTERM):
                self._process.send_signal(number)
            for process in descendants():
                if "ImplicitFunc" in process.name() or "ImplicitFunc" in " ".join(process.cmdline()):
                    os.kill(process.pid, signal.SIGKILL)
                    type(self).killed += 1
        return events


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The names of the processes left in the sessions of the test's executors; gives them some seconds to end."""
    sessions: list[int] = []
    start = driver._start_process

    def started(pipe_fd: int) -> subprocess.Popen[bytes]:
        process = start(pipe_fd)
        sessions.append(process.pid)
        return process

    def alive() -> list[str]:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                name, _, rest = stat.read_text().rpartition(")")
                state, _, _, session = rest.split()[:4]
                if int(session) in sessions and state != "Z":
                    found.append(name)
        return found

    def left() -> list[str]:
        assert sessions
        deadline = time.monotonic() + 5
        while alive() and time.monotonic() < deadline:
            time.sleep(0.1)
        return alive()

    monkeypatch.setattr(driver, "_start_process", started)
    return left


def descendants() -> list:
    import ray  # noqa: F401 - brings psutil along
    import psutil  # isort: skip

    return psutil.Process().children(recursive=True)


def listening_addresses() -> set[str]:
    return {
        connection.laddr.ip
        for process in descendants()
        for connection in process.net_connections()
        if connection.status == "LISTEN"
    }


def test_killed_workers_go_on_and_the_rows_are_those_of_one_process(
    tmp_path: Path, capfd: pytest.CaptureFixture, left: Callable[[], list[str]]
) -> None:
    plan = real_plan(epochs=3)
    executors: list[KillingExecutor] = []

    def start(folder: Path, trials: Sequence[TrialPlan]) -> KillingExecutor:
        executors.append(KillingExecutor(folder, trials))
        return executors[-1]

    summary = run_plan(plan, tmp_path / "ray", start, screen=screen_of(plan))
    output = capfd.readouterr()
    assert summary.completed == 2
    assert len(read_measurements(tmp_path / "ray")[0]) == 1
    assert read_rows(tmp_path / "ray")[0]["measured"].tolist() == ["isolated"] * 2
    assert executors[0].killed >= 1
    assert "its worker process died; it goes on from its checkpoint" in output.out
    assert all(line.startswith(LINES) for line in output.out.splitlines())
    assert output.err == ""
    assert all(address.removeprefix("::ffff:").startswith("127.") for address in executors[0].addresses)
    assert left() == []
    assert not executors[0]._scratch.exists()

    run_plan(plan, tmp_path / "here", InProcessExecutor, screen=screen_of(plan))
    for read, times in ((read_rows, TIMES), (read_epochs, ["train_time_s"])):
        by_ray, here = (read(tmp_path / folder)[0].drop(columns=times) for folder in ("ray", "here"))
        pd.testing.assert_frame_equal(by_ray, here, check_exact=True)


class BreakingExecutor(RayExecutor):
    """Kills one of Ray's own processes, or the one that Ray lives in, when the first epoch has ended."""

    victim: str | None = None
    broken = False

    def poll(self, timeout_s: float) -> list[Event]:
        events = super().poll(timeout_s)
        if not self.broken and any(map(ended_epoch, events)):
            self.broken = True
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
        ("gcs_server", "gcs_server died|its process ended"),
        (None, "its process ended"),
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
    plan = real_plan(epochs=20)
    start = time.monotonic()
    with pytest.raises(UserError, match=rf"Ray itself has stopped working \(({reason})\); what has ended is stored"):
        run_plan(plan, tmp_path, BreakingExecutor, screen=screen_of(plan))
    assert time.monotonic() - start < 60
    assert left() == []
    output = capfd.readouterr()
    assert output.err == ""
    assert all(line.startswith(LINES) for line in output.out.splitlines())
    assert read_rows(tmp_path)[0].empty
    assert run_plan(plan, tmp_path, InProcessExecutor, screen=screen_of(plan), limit=1).completed == 1


def test_a_hanging_ray_is_closed_all_the_same(
    tmp_path: Path, left: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "CLOSE_TIMEOUT_S", 0.5)
    executor = RayExecutor(tmp_path, [fake_trial(0)])
    executor._process.send_signal(signal.SIGSTOP)
    executor.close()
    executor.close()
    assert left() == []
    assert not executor._scratch.exists()


def test_a_defect_in_rays_process_comes_with_its_traceback(tmp_path: Path, left: Callable[[], list[str]]) -> None:
    executor = RayExecutor(tmp_path, [fake_trial(0)])
    executor.submit(SimpleNamespace(trial_id="neither CPUs nor GPUs"), 1)
    with pytest.raises(RuntimeError, match=r"(?s)in _resources.*has no attribute 'cpus_per_trial'"):
        executor.poll(60)
    executor.close()
    assert left() == []


def test_a_process_that_does_not_come_up(
    tmp_path: Path, left: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=r"Ray does not start \(on this machine\): its process ended"):
        RayExecutor(tmp_path, [fake_trial(0)])
    assert left() == []


@pytest.mark.parametrize(
    ("trial", "machines", "fitting"),
    [
        (fake_trial(0, cpus=2), [{"CPU": 8.0}], 4),
        (fake_trial(0, cpus=2), [{"CPU": 3.0}, {"CPU": 5.0, "GPU": 1.0}], 1 + 2),
        (fake_trial(0, cpus=1, gpus=0.5), [{"CPU": 8.0, "GPU": 2.0}], 4),
        (fake_trial(0, cpus=1, gpus=1), [{"CPU": 64.0}, {"CPU": 2.0, "GPU": 4.0}], 2),
    ],
)
def test_capacity(trial: TrialPlan, machines: list[dict], fitting: int) -> None:
    dead = {"Alive": False, "Resources": {"CPU": 100.0, "GPU": 100.0}}
    nodes = [dead, *({"Alive": True, "Resources": has} for has in machines)]
    assert capacity(nodes, trial.cpus_per_trial, trial.gpus_per_trial) == fitting


def test_what_no_machine_has_is_refused_before_anything_runs(tmp_path: Path, left: Callable[[], list[str]]) -> None:
    with pytest.raises(UserError, match=r"takes 4096 CPUs and 0 GPUs .* has \d+ CPUs"):
        RayExecutor(tmp_path, [fake_trial(0, cpus=4096)])
    assert left() == []


def test_an_address_where_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"--address {address}: no Ray cluster answers there"):
            RayExecutor(tmp_path, [fake_trial(0)], address=address)


SCRIPT = """
import sys
from pathlib import Path
from fake_training import screen_of
from test_driver import real_plan
from sweep.driver import RayExecutor
from sweep.runner import run_plan
plan = real_plan(epochs=int(sys.argv[2]))
summary = run_plan(plan, Path(sys.argv[1]), RayExecutor, screen=screen_of(plan))
assert "ray" not in sys.modules
sys.exit(summary.exit_code)
"""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_driver_leaves_no_worker_and_its_study_goes_on(tmp_path: Path, number: int) -> None:
    import ray  # noqa: F401 - brings psutil along
    import psutil  # isort: skip

    command = [sys.executable, "-c", SCRIPT, str(tmp_path), "10"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    sweep = subprocess.Popen(command, env=environment, start_new_session=True)
    while len(list(tmp_path.glob("checkpoints/*/last.pt"))) < 2:
        assert sweep.poll() is None
        time.sleep(0.1)
    started = psutil.Process(sweep.pid).children(recursive=True)
    assert {"raylet", "gcs_server"} <= {process.name() for process in started}
    if number == signal.SIGKILL:
        os.kill(sweep.pid, number)
    else:
        os.killpg(sweep.pid, number)  # as a terminal does
    assert sweep.wait(timeout=15) == (-9 if number == signal.SIGKILL else 130)
    _, alive = psutil.wait_procs(started, timeout=5)
    assert not [process for process in alive if process.status() != "zombie"]
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert read_rows(tmp_path)[0]["status"].tolist() == ["completed"] * 2
