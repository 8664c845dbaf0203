"""A cluster with simulated GPUs: nodes leave, join or do not see the folder; GPU types, and shares of a GPU."""

from __future__ import annotations

import os
import subprocess
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_jobs import FakeJob, Step, largest_request, run_fake, until
from fake_training import starts
from fault_study import EPOCHS, faulty_job, run, study
from local_cluster import ENVIRONMENT, LocalCluster
from other_code import clone, imported, run_import

from sweep.errors import UserError
from sweep.executors.base import Event, Finished, Lost, Progress, Started
from sweep.executors.ray_tune import executor as ray_executor
from sweep.executors.ray_tune.executor import RayExecutor
from sweep.store.study import read_epochs, read_rows


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A node with two A100s, one with two H100s, and two with two L40S each."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (ENVIRONMENT | {"FAULT_EPOCH_S": "0.5"}).items():
            patch.setenv(name, value)
        with LocalCluster(tmp_path_factory.mktemp("cluster")) as ray:
            a100 = ray.add(gpus=2, cpus=4, accelerator_type="A100")
            h100 = ray.add(gpus=2, cpus=4, accelerator_type="H100")
            for _ in range(2):
                ray.add(gpus=2, cpus=4, accelerator_type="L40S")
            yield SimpleNamespace(ray=ray, a100=a100, h100=h100)


def executor_of(cluster: SimpleNamespace, folder: Path, jobs: list[FakeJob]) -> RayExecutor:
    return RayExecutor(folder, largest_request(jobs), address=cluster.ray.address, run=run_fake)


def make_jobs(n: int, **options: object) -> list[FakeJob]:
    return [FakeJob(job_id=f"job{i}", until="go", **options) for i in range(n)]


def last_steps(events: list[Event]) -> dict[str, Step]:
    """Return the last step of each job, by job id."""
    return {event.job_id: event.metrics for event in events if isinstance(event, Progress)}


def finished(jobs: list[FakeJob]) -> Callable[[list[Event]], bool]:
    ids = {job.job_id for job in jobs}
    return lambda events: ids <= {event.job_id for event in events if isinstance(event, Finished)}


def loss_reasons(events: list[Event]) -> dict[str, str]:
    return {event.job_id: event.reason for event in events if isinstance(event, Lost)}


def listening_addresses(pid: int) -> set[str]:
    import ray  # noqa: F401 - brings psutil along
    import psutil  # isort: skip

    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    connections = [connection for process in family for connection in process.net_connections()]
    return {connection.laddr.ip.removeprefix("::ffff:") for connection in connections if connection.status == "LISTEN"}


@pytest.fixture
def can_hide() -> bool:
    """True if this process may create a mount namespace, in which a folder can be hidden from a node."""
    unshare = ["unshare", "-m", "true"]
    return os.geteuid() == 0 and not subprocess.run(unshare, capture_output=True, check=False).returncode


BLIND = r"^127\.0\.0\.1: the machine does not see {}: --out must be a folder that all machines share"


def test_jobs_survive_nodes_that_leave_fail_their_check_or_join(
    cluster: SimpleNamespace, tmp_path: Path, can_hide: bool
) -> None:
    jobs = [FakeJob(job_id=kind, until="go", gpus=1, accelerator_type=kind) for kind in ("A100", "H100")]
    with closing(executor_of(cluster, tmp_path, make_jobs(1, gpus=1))) as executor:
        assert executor.capacity == 8
        assert executor.gpu_memory_mib is None  # simulated GPUs have none
        for job in jobs:
            executor.submit(job)
        events = until(executor, lambda events: len(last_steps(events)) == len(jobs))
        assert last_steps(events)["A100"].node == cluster.a100
        assert last_steps(events)["H100"].node == cluster.h100
        addresses = listening_addresses(cluster.ray.pid) | listening_addresses(executor._process.pid)
        assert addresses
        assert all(address.startswith("127.") for address in addresses)

        cluster.ray.remove(cluster.a100)
        events += until(executor, lambda _: executor.capacity == 6)
        events += until(executor, lambda new: bool(loss_reasons(events + new)))
        (lost,) = (event for event in events if isinstance(event, Lost))
        assert lost.job_id == "A100"
        assert lost.reason in ("its machine left", "its worker cannot be reached")
        assert lost.node_left
        executor.submit(jobs[0])  # waits for a slot

        with pytest.warns(UserWarning, match=BLIND.format(tmp_path)) if can_hide else nullcontext([True]) as notes:
            if can_hide:
                blind = cluster.ray.add(gpus=2, cpus=4, accelerator_type="A100", hidden=tmp_path)
            cluster.a100 = cluster.ray.add(gpus=2, cpus=4, accelerator_type="A100")
            events += until(executor, lambda _: bool(notes) and executor.capacity != 6)
        assert executor.capacity == 8
        (tmp_path / "go").touch()
        with warnings.catch_warnings(action="error"):  # the failed node's note must not be repeated
            events += until(executor, finished(jobs))
        if can_hide:
            cluster.ray.remove(blind)
        assert set(loss_reasons(events)) == {"A100"}
        assert last_steps(events)["A100"].node == cluster.a100
        started = Counter(event.job_id for event in events if isinstance(event, Started))
        assert started == {"A100": 2, "H100": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["go"]  # the check leaves no files


@pytest.mark.long
def test_jobs_share_gpus_of_the_requested_type(cluster: SimpleNamespace, tmp_path: Path) -> None:
    jobs = make_jobs(6, gpus=0.5, accelerator_type="H100")
    with closing(executor_of(cluster, tmp_path, jobs)) as executor:
        assert executor.capacity == 4
        for job in jobs:
            executor.submit(job)
        events = until(executor, lambda events: len(last_steps(events)) == 4)
        ran = last_steps(events)
        assert {step.node for step in ran.values()} == {cluster.h100}
        assert Counter(step.gpus for step in ran.values()) == {("0",): 2, ("1",): 2}
        # Stop a waiting and a running job: the other waiting job gets the slot.
        waiting = {job.job_id for job in jobs} - set(ran)
        stopped = {waiting.pop(), next(iter(ran))}
        for job_id in stopped:
            executor.stop(job_id)
        events += until(executor, lambda new: waiting <= set(last_steps(new)) and len(loss_reasons(new)) == 2)
        assert loss_reasons(events) == dict.fromkeys(stopped, "stopped")


def test_workers_import_what_the_driver_imported(
    cluster: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here := tmp_path / "here").mkdir()
    (study := tmp_path / "study").mkdir()
    clone(here)
    monkeypatch.chdir(here)
    (job,) = make_jobs(1)
    with closing(RayExecutor(study, job.resources, address=cluster.ray.address, run=run_import)) as executor:
        executor.submit(job)
        events = until(executor, finished([job]))
    assert [event.metrics for event in events if isinstance(event, Progress)] == [imported()]


def test_a_silent_head_ends_the_run(cluster: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "HEAD_TIMEOUT_S", 3.0)
    monkeypatch.setattr(ray_executor, "CLOSE_TIMEOUT_S", 0.5)
    jobs = make_jobs(1)
    with closing(executor_of(cluster, tmp_path, jobs)) as executor, cluster.ray.silent_head():
        executor.submit(jobs[0])
        with pytest.raises(UserError, match=r"Ray stopped working \(no answer for 3 s\); finished trials are stored"):
            until(executor, finished(jobs))
        monkeypatch.setattr(ray_executor, "START_TIMEOUT_S", 3.0)
        with pytest.raises(UserError, match=r"Ray does not start \(127.*\): it has not come up within 3 s"):
            executor_of(cluster, tmp_path, jobs)
    assert not list(tmp_path.iterdir())


def test_a_request_that_no_node_fits_is_an_error_before_the_run(cluster: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"takes 1 CPUs and 1 GPUs .* of type L4 .* The machines have: ") as refused:
        executor_of(cluster, tmp_path, make_jobs(1, gpus=1, accelerator_type="L4"))
    assert "4 CPUs and 2 GPUs (H100)" in str(refused.value)
    assert not list(tmp_path.iterdir())


class ChangingCluster(RayExecutor):
    """Changes the cluster during a run."""

    changes: list[
        tuple[type, Callable[[], None]]
    ]  # in order: an event, and the change that follows its first occurrence

    def poll(self, timeout_s: float) -> list[Event]:
        events = super().poll(timeout_s)
        if self.changes and any(isinstance(event, self.changes[0][0]) for event in events):
            self.changes.pop(0)[1]()
        return events


@pytest.mark.long
def test_a_packed_study_finishes_while_nodes_leave_and_join(
    cluster: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def leave() -> None:
        cluster.ray.remove(cluster.a100)

    def join() -> None:
        cluster.a100 = cluster.ray.add(gpus=2, cpus=4, accelerator_type="A100")

    changes: list[tuple[type, Callable[[], None]]] = [(Finished, leave), (Lost, join)]
    monkeypatch.setattr(ChangingCluster, "changes", changes, raising=False)
    plan = study(range(20), gpus=1, gpus_per_trial="pack", gpu_memory_gib=3, max_concurrent=14)
    executor = partial(ChangingCluster, address=cluster.ray.address, run=faulty_job)
    assert run(tmp_path, plan, executor).completed == 20
    assert not changes
    shown = capsys.readouterr().out
    assert "capacity changed: 6 concurrent trials (it was 8)" in shown
    assert "capacity changed: 8 concurrent trials (it was 6)" in shown
    rows = read_rows(tmp_path)[0]
    assert sorted(rows["trial_id"]) == sorted(trial.trial_id for trial in plan.trials), "each once"
    assert rows["status"].tolist() == ["completed"] * 20
    assert rows["gpus_per_trial"].tolist() == [0.5] * 20
    assert (read_epochs(tmp_path)[0].groupby("trial_id").size() == EPOCHS).all()
    begun = Counter(line.split()[0] for line in starts(tmp_path))
    lost = {trial for trial in begun if f"{trial}: its " in shown}
    assert lost
    assert {trial for trial, n in begun.items() if n > 1} <= lost, "only lost trials ran again"


@pytest.mark.long
def test_a_node_that_loses_sight_of_the_folder_gets_no_more_jobs(
    cluster: SimpleNamespace, tmp_path: Path, can_hide: bool
) -> None:
    if not can_hide:
        pytest.skip("this process may not create a mount namespace")
    (tmp_path / "other").mkdir()
    job = FakeJob(job_id="job", cpus=8)
    node = cluster.ray.add(cpus=8, hidden=tmp_path / "other")
    with closing(executor_of(cluster, tmp_path, [job])) as executor:
        assert executor.capacity == 1
        cluster.ray.hide(node, tmp_path)
        executor.submit(job)
        with pytest.warns(UserWarning, match=BLIND.format(tmp_path)):
            events = until(executor, lambda events: bool(loss_reasons(events)) and executor.capacity == 0)
        (lost,) = (event for event in events if isinstance(event, Lost))
        assert lost.node_left
        executor.submit(job)  # waits for another node
        other = cluster.ray.add(cpus=8)
        events += until(executor, finished([job]))
        assert last_steps(events)["job"].node == other
    with pytest.raises(UserError, match=BLIND.format(tmp_path)):  # before the first job
        executor_of(cluster, tmp_path, [job])
    for node_id in (node, other):
        cluster.ray.remove(node_id)
