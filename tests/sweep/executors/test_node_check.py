"""A machine's fitness for a study, as it sees itself: patience with a network's file system, not with what is wrong."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_jobs import FakeJob, run_at_once

from sweep.errors import UserError
from sweep.executors.ray_tune import node_check, nodes
from sweep.executors.ray_tune.node_check import FolderProbe
from sweep.executors.ray_tune.nodes import NodePool

ray = pytest.importorskip("ray")
NEED = FakeJob(job_id="").resources


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_check, "PATIENCE_S", 0.3)


def test_a_short_fault_of_the_file_system_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_check, "PATIENCE_S", 60)
    mark = FolderProbe.leave(tmp_path)
    (tmp_path / mark.name).rename(tmp_path / "away")
    threading.Timer(0.5, (tmp_path / "away").rename, [tmp_path / mark.name]).start()
    assert mark.problem() is None
    answer = tmp_path / f"{mark.name}-node"
    threading.Timer(0.5, answer.write_text, [mark.token]).start()
    assert mark.is_answered("node")
    assert not answer.exists()


def test_another_folder_is_told_at_once_and_a_missing_one_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = FolderProbe.leave(tmp_path)
    assert "does not see" in (replace(mark, name="gone").problem() or "")
    monkeypatch.setattr(node_check, "PATIENCE_S", 1e6)
    assert "does not see" in (replace(mark, token="other").problem() or "")


def test_a_worker_of_another_program_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweep.executors.ray_tune import loop

    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(loop.tune, "report", reported.append)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node"))
    mark = FolderProbe.leave(tmp_path)
    loop._work(run_at_once, mark, FakeJob(job_id="job"), 1, tmp_path)
    assert [list(report) for report in reported] == [["metrics"], ["end"]]
    reported.clear()
    loop._work(run_at_once, replace(mark, version="famba-sweep 0.0"), FakeJob(job_id="job"), 1, tmp_path)
    (report,) = reported
    assert report["node_id"] == "node"
    assert "has another version than the driver's machine" in report["problem"]
    assert report["end"].machine_left


class Cluster:
    """In place of Ray: nodes, and the answers that some have given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mark: FolderProbe) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, Any] = {}
        self.requested: list[str] = []
        self._mark = mark
        monkeypatch.setattr(ray, "nodes", lambda: list(self.nodes.values()))
        monkeypatch.setattr(ray, "wait", self.wait)
        monkeypatch.setattr(ray, "get", self.get)
        monkeypatch.setattr(nodes, "_ask", self.ask)

    def join(self, name: str) -> None:
        self.nodes[name] = {"NodeID": name, "NodeManagerAddress": name, "Alive": True, "Resources": {"CPU": 1.0}}

    def ask(self, node_id: str, mark: FolderProbe, *, with_gpu: bool) -> str:
        self.requested.append(node_id)
        return node_id

    def wait(self, references: list[str], *, num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        ready = [name for name in references if name in self.answers]
        return ready, [name for name in references if name not in ready]

    def get(self, name: str) -> Any:
        self._mark.answer(name)
        return self.answers[name]


def test_a_machine_that_joins_slowly_is_noted_once_and_works_when_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = FolderProbe.leave(tmp_path)
    cluster = Cluster(monkeypatch, mark)
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(nodes.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(node_check, "time", SimpleNamespace(monotonic=lambda: clock.now))
    pool = NodePool(NEED, mark)
    for name in ("quick", "slow"):
        cluster.join(name)
    cluster.answers["quick"] = (None,)
    with pytest.raises(UserError, match=r"slow: has not answered within 60 s"):  # before the first job
        pool.first_room()
    pool = NodePool(NEED, mark)
    del cluster.nodes["slow"]
    assert pool.first_room().capacity == 1
    cluster.join("slow")
    assert pool.room().capacity == 1
    assert pool._notes() == []
    clock.now += 100
    assert pool.room().capacity == 1
    assert pool._notes() == ["slow: has not answered within 60 s; it gets no trial before it does"]
    assert pool.room().capacity == 1
    assert pool._notes() == []
    assert cluster.requested[-1] == "slow"
    assert cluster.requested.count("slow") == 2, "once by each pool"
    cluster.answers["slow"] = (None,)
    assert pool.room().capacity == 2


def test_an_unfit_machine_is_named_once_and_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = FolderProbe.leave(tmp_path)
    cluster = Cluster(monkeypatch, mark)
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(nodes, "time", SimpleNamespace(monotonic=lambda: clock.now))
    pool = NodePool(NEED, mark)
    for name in ("first", "second"):
        cluster.join(name)
        cluster.answers[name] = (None,)
    assert pool.first_room().capacity == 2
    assert pool.selector == "in(first,second)"
    cluster.join("blind")
    assert pool.selector == "in(first,second)", "not before its check"
    cluster.answers["blind"] = "does not see it"
    for notes in (["blind: does not see it; the run goes on without it until that is mended"], []):
        assert pool.room().capacity == 2
        assert pool._notes() == notes
    assert pool.selector == "in(first,second)"

    pool.leave_out("first", "does not see it any more")
    assert pool.selector == "in(second)"
    assert pool.room().capacity == 1
    (note,) = pool._notes()
    assert note.startswith("first: does not see it any more; ")
    del cluster.nodes["second"]
    assert pool.room().capacity == 0
    assert pool.selector == "in(none)"
    assert cluster.requested == ["first", "second", "blind"]
    with pytest.raises(UserError, match=r"^blind: does not see it$"):  # before the first job
        NodePool(NEED, mark).first_room()

    clock.now += nodes.CHECK_AGAIN_S
    assert pool.room().capacity == 1, "the first passes again"
    assert pool.selector == "in(first)"
    assert pool._notes() == []
    cluster.answers["blind"] = (None,)
    assert pool.room().capacity == 1, "not before its time"
    clock.now += nodes.CHECK_AGAIN_S
    assert pool.room().capacity == 2
    assert pool.selector == "in(blind,first)"


def test_a_mark_that_is_gone_is_left_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = FolderProbe.leave(tmp_path)
    cluster = Cluster(monkeypatch, mark)
    cluster.join("only")
    cluster.answers["only"] = (None,)
    mark.remove()
    assert mark.problem()
    assert NodePool(NEED, mark).first_room().capacity == 1
    assert mark.problem() is None
