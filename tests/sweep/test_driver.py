"""Ray Tune for real: workers that train, are killed, and leave nothing running."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from fake_training import fake_trial, plan_of, screen_of

from famba_core.config import FusionConfig, ModelConfig
from sweep.driver import RayExecutor, _capacity
from sweep.errors import UserError
from sweep.executor import Event, Progress
from sweep.in_process import InProcessExecutor
from sweep.plan import Plan, TrialPlan
from sweep.runner import run_plan
from sweep.store import read_epochs, read_rows

TIMES = ["train_time_s", "wall_time_s", "step_time_ms", "throughput_img_per_s", "started_at", "finished_at"]


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


class KillingExecutor(RayExecutor):
    """Kills every worker that trains, once, when the first epoch has ended."""

    killed = 0
    addresses: set[str]

    def poll(self, timeout_s: float) -> list[Event]:
        events = super().poll(timeout_s)
        if not self.killed and any(isinstance(event, Progress) for event in events):
            self.addresses = listening_addresses()
            for process in descendants():
                if "ImplicitFunc" in process.name() or "ImplicitFunc" in " ".join(process.cmdline()):
                    os.kill(process.pid, signal.SIGKILL)
                    type(self).killed += 1
        return events


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
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    plan = real_plan(epochs=3)
    executors: list[KillingExecutor] = []

    def start(folder: Path, trials: Sequence[TrialPlan]) -> KillingExecutor:
        executors.append(KillingExecutor(folder, trials))
        return executors[-1]

    on_sigterm = signal.getsignal(signal.SIGTERM)
    summary = run_plan(plan, tmp_path / "ray", start, screen=screen_of(plan))
    output = capfd.readouterr()
    assert summary.completed == 2
    assert executors[0].killed >= 1
    assert "its worker process died; it goes on from its checkpoint" in output.out
    assert all(line.startswith(("real-seed", "2 of 2 trials to train")) for line in output.out.splitlines())
    assert output.err == ""
    assert all(address.removeprefix("::ffff:").startswith("127.") for address in executors[0].addresses)
    assert not [process for process in descendants() if process.status() != "zombie"]
    assert not executors[0]._scratch.exists()
    assert signal.getsignal(signal.SIGTERM) is on_sigterm

    run_plan(plan, tmp_path / "here", InProcessExecutor, screen=screen_of(plan))
    for read, times in ((read_rows, TIMES), (read_epochs, ["train_time_s"])):
        by_ray, here = (read(tmp_path / folder)[0].drop(columns=times) for folder in ("ray", "here"))
        pd.testing.assert_frame_equal(by_ray, here, check_exact=True)


class BreakingExecutor(RayExecutor):
    """Kills Ray's own server when the first epoch has ended."""

    broken = False

    def poll(self, timeout_s: float) -> list[Event]:
        events = super().poll(timeout_s)
        if not self.broken and any(isinstance(event, Progress) for event in events):
            self.broken = True
            (raylet,) = (process for process in descendants() if process.name() == "raylet")
            raylet.kill()
        return events


def test_a_run_whose_ray_dies_ends_and_goes_on_later(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    plan = real_plan(epochs=30)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"Ray itself has stopped working \(raylet died\); what has ended is stored"):
        run_plan(plan, tmp_path, BreakingExecutor, screen=screen_of(plan))
    assert time.monotonic() - start < 60
    assert not [process for process in descendants() if process.status() != "zombie"]
    assert capfd.readouterr().err == ""
    assert read_rows(tmp_path)[0].empty
    assert run_plan(plan, tmp_path, InProcessExecutor, screen=screen_of(plan)).completed == 2


@pytest.mark.parametrize(
    ("trial", "machines", "capacity"),
    [
        (fake_trial(0, cpus=2), [{"CPU": 8.0}], 4),
        (fake_trial(0, cpus=2), [{"CPU": 3.0}, {"CPU": 5.0, "GPU": 1.0}], 1 + 2),
        (fake_trial(0, cpus=1, gpus=0.5), [{"CPU": 8.0, "GPU": 2.0}], 4),
        (fake_trial(0, cpus=1, gpus=1), [{"CPU": 64.0}, {"CPU": 2.0, "GPU": 4.0}], 2),
    ],
)
def test_capacity(trial: TrialPlan, machines: list[dict], capacity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = {"Alive": False, "Resources": {"CPU": 100.0, "GPU": 100.0}}
    monkeypatch.setattr("ray.nodes", lambda: [dead, *({"Alive": True, "Resources": has} for has in machines)])
    assert _capacity([trial]) == capacity


def test_what_no_machine_has_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"takes 4096 CPUs and 0 GPUs .* has \d+ CPUs"):
        RayExecutor(tmp_path, [fake_trial(0, cpus=4096)])
    assert not [process for process in descendants() if process.status() != "zombie"]


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
sys.exit(run_plan(plan, Path(sys.argv[1]), RayExecutor, screen=screen_of(plan)).exit_code)
"""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_driver_leaves_no_worker_and_its_study_goes_on(tmp_path: Path, number: int) -> None:
    import ray  # noqa: F401 - brings psutil along
    import psutil  # isort: skip

    command = [sys.executable, "-c", SCRIPT, str(tmp_path), "10"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    driver = subprocess.Popen(command, env=environment, start_new_session=True)
    while len(list(tmp_path.glob("checkpoints/*/last.pt"))) < 2:
        assert driver.poll() is None
        time.sleep(0.1)
    workers = psutil.Process(driver.pid).children(recursive=True)
    if number == signal.SIGKILL:
        os.kill(driver.pid, number)
    else:
        os.killpg(driver.pid, number)  # as a terminal does
    assert driver.wait(timeout=15) == (-9 if number == signal.SIGKILL else 130)
    _, alive = psutil.wait_procs(workers, timeout=15)
    assert not [process for process in alive if "ImplicitFunc" in process.name()]
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert read_rows(tmp_path)[0]["status"].tolist() == ["completed"] * 2
