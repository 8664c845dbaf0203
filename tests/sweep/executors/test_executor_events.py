"""The events of jobs that finish, fail or are stopped; both executors report the same."""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fake_jobs import FakeJob, ended, largest_request, run_faulty, until
from fake_training import fake_trial, job_of, resources_of

import sweep.worker.job
from sweep.executors.base import Event, Finished, Lost, Progress, Started
from sweep.executors.local import LocalExecutor
from sweep.executors.ray_tune.executor import RayExecutor
from sweep.worker.job import run_job
from sweep.worker.trial import OutOfMemory

ENDS = {
    "well": Finished(job_id="well", status="completed", error=None),
    "raises": Lost(job_id="raises", reason="RuntimeError: not a result"),
    "needs more memory": Lost(job_id="needs more memory", reason="a batch does not fit", out_of_memory=True),
}


def select_events(name: str, events: list[Event]) -> list[Event]:
    return [event for event in events if event.job_id == name]


def test_ray_reports_the_events_of_its_workers(tmp_path: Path) -> None:
    ends = ENDS | {
        "dies": Lost(job_id="dies", reason="its worker process died"),
        "hangs": Lost(job_id="hangs", reason="stopped"),
    }
    jobs = [FakeJob(job_id=name, attempt=7) for name in ends]
    with closing(RayExecutor(tmp_path, largest_request(jobs), run=run_faulty)) as executor:
        for job in jobs:
            executor.submit(job)
        executor.stop("nobody")
        events = until(executor, lambda new: any(isinstance(event, Progress) for event in select_events("hangs", new)))
        executor.stop("hangs")
        events += until(executor, lambda new: ended(jobs)(events + new))
        executor.stop("well")  # has no effect on a finished job
        assert executor.poll(1) == []
    for name, end in ends.items():
        assert select_events(name, events) == [Started(job_id=name), Progress(job_id=name, metrics=7), end]
    assert not list(tmp_path.iterdir())


def test_a_worker_killed_for_its_memory_is_lost_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "RAY_memory_usage_threshold", "0.001"
    )  # share of the machine's memory, which is already exceeded
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    jobs = [FakeJob(job_id="hangs")]
    with closing(RayExecutor(tmp_path, largest_request(jobs), run=run_faulty)) as executor:
        executor.submit(jobs[0])
        lost = until(executor, ended(jobs))[-1]
    reason = "the machine ran out of memory, and Ray ended the worker"
    assert lost == Lost(job_id="hangs", reason=reason, out_of_memory=True)


@pytest.mark.parametrize("name", ENDS)
def test_the_local_executor_reports_events(name: str, tmp_path: Path) -> None:
    executor = LocalExecutor(tmp_path, resources_of(fake_trial(0)), run=run_faulty)
    assert executor.gpu_memory_mib is None
    executor.submit(FakeJob(job_id=name, attempt=7))
    executor.stop("nobody")
    events = until(executor, ended([FakeJob(job_id=name)]))
    assert events == [Started(job_id=name), Progress(job_id=name, metrics=7), ENDS[name]]
    executor.stop(name)
    assert executor.poll(0) == []


def test_the_local_executor_closes_a_stopped_job(tmp_path: Path) -> None:
    closed = []

    def run(job: Any, folder: Path) -> Generator[Any, None, Finished]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(job.job_id)
        raise AssertionError

    executor = LocalExecutor(tmp_path, resources_of(fake_trial(0)), run=run)
    executor.submit(FakeJob(job_id="first"))
    until(executor, lambda events: len(events) == 2)
    executor.stop("first")
    assert closed == ["first"]
    assert executor.poll(0) == [Lost(job_id="first", reason="stopped")]
    executor.submit(FakeJob(job_id="second"))  # the slot is free again
    assert executor.poll(0) == [Started(job_id="second")]


def raising(error: Exception) -> Callable[..., Generator[Any, None, Any]]:
    def run_trial(*_: Any) -> Generator[Any, None, Any]:
        yield "an epoch"
        raise error

    return run_trial


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (OutOfMemory("too large"), Lost(job_id="fake-seed0", reason="too large", out_of_memory=True)),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            Lost(job_id="fake-seed0", reason="No space left on device", folder_failed=True),
        ),
        (
            OSError(errno.EROFS, "Read-only file system"),
            Lost(job_id="fake-seed0", reason="Read-only file system", folder_failed=True),
        ),
        (
            OSError(errno.EIO, "Input/output error"),
            Lost(job_id="fake-seed0", reason="OSError: [Errno 5] Input/output error"),
        ),
    ],
    ids=["memory", "full", "read-only", "other"],
)
def test_memory_and_folder_errors_are_losses_not_results(
    error: Exception, lost: Lost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep.worker.job, "run_trial", raising(error))
    executor = LocalExecutor(tmp_path, resources_of(fake_trial(0)), run=run_job)
    executor.submit(job_of(fake_trial(0)))
    assert until(executor, ended([FakeJob(job_id="fake-seed0")]))[-1] == lost
