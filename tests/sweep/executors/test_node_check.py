"""The check of a node, and what follows from it: retries on a slow file system, exclusion, and the next check."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_jobs import FakeJob, run_at_once

from sweep.errors import UserError
from sweep.executors.base import ResourceRequest
from sweep.executors.ray_tune import node_check, nodes
from sweep.executors.ray_tune.fork_server import WorkerTask
from sweep.executors.ray_tune.node_check import FolderProbe, NodeCheck
from sweep.executors.ray_tune.nodes import NodePool

ray = pytest.importorskip("ray")
REQUEST = ResourceRequest(cpus=1)
PASSED = NodeCheck()


@pytest.fixture(autouse=True)
def _short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_check, "READ_TIMEOUT_S", 0.3)


def test_a_probe_waits_for_a_file_system_that_fails_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_check, "READ_TIMEOUT_S", 60)
    probe = FolderProbe.create(tmp_path)
    probe.file.rename(tmp_path / "away")
    threading.Timer(0.5, (tmp_path / "away").rename, [probe.file]).start()
    assert probe.find_problem() is None
    answer = tmp_path / f"{probe.file.name}-node"
    threading.Timer(0.5, answer.write_text, [probe.token]).start()
    assert probe.collect_answer("node")
    assert not answer.exists()


def test_a_probe_reports_another_folder_at_once_and_a_missing_one_after_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = FolderProbe.create(tmp_path)
    assert "does not see" in (replace(probe, file=tmp_path / "missing").find_problem() or "")
    monkeypatch.setattr(node_check, "READ_TIMEOUT_S", 1e6)
    assert "does not see" in (replace(probe, token="other").find_problem() or "")


def test_a_worker_with_other_code_runs_nothing(tmp_path: Path) -> None:
    def reports(probe: FolderProbe) -> list[dict[str, Any]]:
        task = WorkerTask(run=run_at_once, job=FakeJob(job_id="job"), folder=tmp_path, find_problem=probe.find_problem)
        return list(task.reports())

    probe = FolderProbe.create(tmp_path)
    assert [list(report) for report in reports(probe)] == [["metrics"], ["end"]]
    (report,) = reports(replace(probe, code_hash="1234"))
    assert "than the driver (hash 1234): install the same version on all machines" in report["problem"]
    assert report["end"].node_left


class FakeCluster:
    """Replaces Ray's functions: nodes, and results of those checks that have ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, probe: FolderProbe) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.results: dict[str, NodeCheck] = {}
        self.started: list[str] = []
        self._probe = probe
        monkeypatch.setattr(ray, "nodes", lambda: list(self.nodes.values()))
        monkeypatch.setattr(ray, "wait", self.wait)
        monkeypatch.setattr(ray, "get", self.get)
        monkeypatch.setattr(nodes, "_start_check", self.start_check)

    def join(self, name: str) -> None:
        self.nodes[name] = {"NodeID": name, "NodeManagerAddress": name, "Alive": True, "Resources": {"CPU": 1.0}}

    def start_check(self, node_id: str, probe: FolderProbe, with_gpu: bool) -> str:
        self.started.append(node_id)
        return node_id

    def wait(self, references: list[str], *, num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        ready = [name for name in references if name in self.results]
        return ready, [name for name in references if name not in ready]

    def get(self, name: str) -> NodeCheck:
        self._probe.answer(name)
        return self.results[name]


def test_a_slow_node_is_noted_once_and_gets_jobs_after_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = FolderProbe.create(tmp_path)
    cluster = FakeCluster(monkeypatch, probe)
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(nodes.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(node_check, "time", SimpleNamespace(monotonic=lambda: clock.now))
    pool = NodePool(REQUEST, probe)
    for name in ("quick", "slow"):
        cluster.join(name)
    cluster.results["quick"] = PASSED
    with pytest.raises(UserError, match=r"slow: the machine has not answered within 60 s"):  # before the first job
        pool.check_all()
    pool = NodePool(REQUEST, probe)
    del cluster.nodes["slow"]
    assert pool.check_all().slots == 1
    cluster.join("slow")
    assert pool.update().slots == 1
    assert pool.take_notes() == []
    clock.now += 100
    assert pool.update().slots == 1
    note = "slow: the machine has not answered within 60 s; the run continues without it until that is fixed"
    assert pool.take_notes() == [note]
    assert pool.update().slots == 1
    assert pool.take_notes() == []
    assert cluster.started[-1] == "slow"
    assert cluster.started.count("slow") == 2, "once by each pool"
    cluster.results["slow"] = PASSED
    assert pool.update().slots == 2


def test_a_node_that_fails_is_named_once_and_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = FolderProbe.create(tmp_path)
    cluster = FakeCluster(monkeypatch, probe)
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(nodes, "time", SimpleNamespace(monotonic=lambda: clock.now))
    pool = NodePool(REQUEST, probe)
    for name in ("first", "second"):
        cluster.join(name)
        cluster.results[name] = PASSED
    assert pool.check_all().slots == 2
    assert pool.selector == "in(first,second)"
    cluster.join("blind")
    assert pool.selector == "in(first,second)", "not before its check"
    cluster.results["blind"] = NodeCheck(problem="does not see it")
    for notes in (["blind: does not see it; the run continues without it until that is fixed"], []):
        assert pool.update().slots == 2
        assert pool.take_notes() == notes
    assert pool.selector == "in(first,second)"

    pool.exclude("first", "no longer sees it")
    assert pool.selector == "in(second)"
    assert pool.update().slots == 1
    (note,) = pool.take_notes()
    assert note.startswith("first: no longer sees it; ")
    del cluster.nodes["second"]
    assert pool.update().slots == 0
    assert pool.selector == "in(none)"
    assert cluster.started == ["first", "second", "blind"]
    with pytest.raises(UserError, match=r"^blind: does not see it$"):  # before the first job
        NodePool(REQUEST, probe).check_all()

    clock.now += nodes.RECHECK_S
    assert pool.update().slots == 1, "the first passes again"
    assert pool.selector == "in(first)"
    assert pool.take_notes() == []
    cluster.results["blind"] = PASSED
    assert pool.update().slots == 1, "not before its next check"
    clock.now += nodes.RECHECK_S
    assert pool.update().slots == 2
    assert pool.selector == "in(blind,first)"


def test_a_deleted_probe_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = FolderProbe.create(tmp_path)
    cluster = FakeCluster(monkeypatch, probe)
    cluster.join("only")
    cluster.results["only"] = PASSED
    probe.remove()
    assert probe.find_problem()
    assert NodePool(REQUEST, probe).check_all().slots == 1
    assert probe.find_problem() is None
