"""Forked workers: fresh, with what was imported before, gone with the processes that they work for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_jobs import FakeJob, run_faulty
from fake_training import job_of
from real_runs import real_plan

from sweep.executors.base import Finished, Job, Lost
from sweep.executors.ray_tune import fork_server
from sweep.executors.ray_tune.fork_server import CAN_FORK, ForkServer, WorkerTask, run_forked
from sweep.files.code import code_hash
from sweep.store.study import create_study
from sweep.worker.job import run_job, warm_up

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="jobs are not forked on this system")
DIED = Lost(job_id="job", reason="its worker process died")


@pytest.fixture
def address() -> Iterator[Path]:
    fork_server._find_server.cache_clear()
    with tempfile.TemporaryDirectory() as folder:  # a short path, as sockets need
        yield Path(folder, "server")
    fork_server._find_server.cache_clear()


def no_problem() -> None:
    """Find nothing wrong with this machine."""


def reports(run: Callable[..., Any], address: Path, job_id: str = "job") -> Iterator[dict[str, Any]]:
    task = WorkerTask(run=run, job=FakeJob(job_id=job_id), folder=address.parent, find_problem=no_problem)
    return run_forked(task, None, address)


def run_and_mark(job: FakeJob, folder: Path) -> Generator[Any, None, Finished]:
    """Yield what an earlier job has left in this process: nothing, if it is fresh."""
    import decimal

    yield getattr(decimal, "mark", None), os.environ.get("MARK"), os.environ.get("GIVEN"), os.getppid()
    decimal.mark = os.environ["MARK"] = "was here"  # type: ignore[attr-defined]
    return Finished(job_id=job.job_id, status="completed", error=None)


def run_forever(job: FakeJob, folder: Path) -> Generator[Any, None, Finished]:
    yield os.getpid(), os.getppid()
    time.sleep(1000)
    raise AssertionError


def is_gone(pid: int) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_each_job_has_a_fresh_process_of_one_server(address: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ForkServer.start(None, address)
    monkeypatch.setenv("GIVEN", "later")  # as Ray tells a worker which GPUs are its own
    end = Finished(job_id="job", status="completed", error=None)
    for _ in range(2):
        first, last = reports(run_and_mark, address)
        assert first == {"metrics": (None, None, "later", server.process.pid)}
        assert last == {"end": end}


def run_hash(job: FakeJob, folder: Path) -> Generator[Any, None, Finished]:
    """Yield how often the sources were read before the job began, and how many hashes are known."""
    yield code_hash.cache_info().misses, code_hash.cache_info().currsize
    return Finished(job_id=job.job_id, status="completed", error=None)


def test_a_job_has_the_hash_of_the_code_that_its_server_imported(address: Path) -> None:
    first, _ = reports(run_hash, address)
    assert first == {"metrics": (1, 1)}


def test_a_machine_without_a_server_starts_one(address: Path) -> None:
    (first, _), (second, _) = (list(reports(run_and_mark, address)) for _ in range(2))
    assert first == second, "the same one serves all jobs"


@pytest.mark.parametrize(
    ("job_id", "end"),
    [
        ("raises", Lost(job_id="raises", reason="RuntimeError: not a result")),
        ("needs more memory", Lost(job_id="needs more memory", reason="a batch does not fit", out_of_memory=True)),
        ("dies", Lost(job_id="dies", reason="its worker process died")),
    ],
)
def test_the_next_job_does_not_notice_how_one_ended(address: Path, job_id: str, end: Lost) -> None:
    assert list(reports(run_faulty, address, job_id)) == [{"metrics": 1}, {"end": end}]
    assert list(reports(run_faulty, address, "well"))[-1]["end"].status == "completed"


def test_a_dead_server_is_a_lost_job_and_replaced(address: Path) -> None:
    job = reports(run_forever, address)
    child, server = next(job)["metrics"]
    os.kill(server, signal.SIGKILL)
    assert list(job) == [{"end": DIED}]
    assert is_gone(child)
    assert list(reports(run_faulty, address, "well"))[-1]["end"].status == "completed"


def test_a_child_ends_with_the_worker_that_it_works_for(address: Path) -> None:
    server = ForkServer.start(None, address)
    child, _ = next(reports(run_forever, address))["metrics"]
    other = ForkServer.connect(address)
    fork_server._find_server(None, address).connection.close()
    assert is_gone(child)
    assert server.process.poll() is None, "it serves others"
    server.connection.close()  # now its owner is gone as well
    assert server.process.wait(20) == 0
    with pytest.raises(EOFError):
        other.connection.recv()


CLIENT = """
import sys
from pathlib import Path
from test_fork_server import reports, run_forever
job = reports(run_forever, Path(sys.argv[1]))
print(*next(job)["metrics"], flush=True)
next(job)
"""


def test_child_and_server_end_with_a_killed_worker(address: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", CLIENT, str(address)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True) as worker:
        child, server = map(int, worker.stdout.readline().split())
        worker.kill()
    assert is_gone(child)
    assert is_gone(server)


def run_and_look(job: Job, folder: Path) -> Generator[Any, None, Finished | Lost]:
    """`run_job`, and after its first epoch what it has imported by itself."""
    before = set(sys.modules)
    steps = run_job(job, folder)
    next(steps)
    yield sys.modules.keys() - before
    return (yield from steps)


def test_a_trial_imports_nothing_slow_and_inherits_no_openmp_threads(address: Path, tmp_path: Path) -> None:
    create_study(tmp_path)
    job = job_of(real_plan(epochs=1).trials[0])
    task = WorkerTask(run=run_and_look, job=job, folder=tmp_path, find_problem=no_problem)
    server = ForkServer.start(warm_up, address)
    first, last = run_forked(task, warm_up, address)
    assert last["end"] == Finished(job_id=job.job_id, status="completed", error=None)
    assert len(first["metrics"]) < 50, "more than a thousand without the server"
    loaded = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "libtorch" in loaded
    assert "libcuda.so" not in loaded


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_a_forked_job_computes_on_the_gpu(address: Path) -> None:
    server = ForkServer.start(warm_up, address)
    first, _ = reports(run_on_gpu, address)
    assert first == {"metrics": 2.0}
    assert server.process.poll() is None


def run_on_gpu(job: FakeJob, folder: Path) -> Generator[float, None, Finished]:
    yield (torch.ones(1, device="cuda") * 2).item()
    return Finished(job_id=job.job_id, status="completed", error=None)
