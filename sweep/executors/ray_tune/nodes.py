"""The machines of a Ray cluster: how many jobs fit on them, whether they can run the study's, who comes and goes."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from famba_core.errors import Problem
from sweep.errors import UserError
from sweep.executors.base import ResourceRequest
from sweep.executors.ray_tune.node_check import FolderProbe, gpu_memory_mib

CHECK_TIMEOUT_S = 60.0
CHECK_AGAIN_S = 60.0  # machines that failed
WATCH_S = 1.0

NO_ANSWER = f"has not answered within {CHECK_TIMEOUT_S:g} s"

Node = dict[str, Any]  # as ray.nodes() describes it
Answer = str | tuple[float | None]  # why a machine cannot run jobs, or the memory of its GPUs


@dataclass(frozen=True, kw_only=True)
class ClusterCapacity:
    """What the cluster has for jobs now."""

    capacity: int  # jobs at the same time
    gpu_memory_mib: float | None  # of the smallest GPU; None without one, or where nobody knows


def capacity(nodes: Iterable[Node], need: ResourceRequest) -> int:
    """How many jobs fit at the same time on `nodes`; a job lives on one machine."""
    return sum(_fitting(node, need) for node in nodes if node["Alive"])


def _fitting(node: Node, need: ResourceRequest) -> int:
    has = node["Resources"]
    if need.accelerator_type and f"accelerator_type:{need.accelerator_type}" not in has:
        return 0
    on_cpus = int(has.get("CPU", 0) // need.cpus)
    if not need.gpus:
        return on_cpus
    gpus = int(has.get("GPU", 0))
    fitting = int(gpus // need.gpus) if need.gpus >= 1 else gpus * int(1 / need.gpus + 1e-6)  # a share is of one GPU
    return min(on_cpus, fitting)


def no_room(nodes: Iterable[Node], need: ResourceRequest) -> UserError:
    """What the user is told when no machine has what one job takes."""
    kinds = Counter(_describe(node) for node in nodes if node["Alive"])
    machines = "; ".join(f"{n} x {kind}" if n > 1 else kind for kind, n in kinds.items())
    return UserError(f"a trial takes {need}, and no machine has that. There is: {machines}")


def _describe(node: Node) -> str:
    has = node["Resources"]
    types = ", ".join(sorted(name.partition(":")[2] for name in has if name.startswith("accelerator_type:")))
    return f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs{f' ({types})' if types else ''}"


class NodePool:
    """The cluster that this process has joined, as far as jobs like `need` are concerned.

    Every machine that may get one is checked before it does; without `mark` (Ray runs on this machine alone) there is
    nothing to check. `room` is for one thread; `selector` and `leave_out` are for another one.
    """

    def __init__(self, need: ResourceRequest, mark: FolderProbe | None) -> None:
        self._need, self._mark = need, mark
        self._memory: dict[str, float | None] = {}  # of the GPUs of checked machines, by the node's id
        self._asked: dict[str, tuple[Any, float]] = {}  # by the node's id, the answer to come, and since when
        self._unfit: dict[str, tuple[str, float]] = {}  # by the node's id, why a machine is left out, and since when
        self._usable: list[str] = []  # ids of the machines in the last ClusterCapacity
        self._noted: set[str] = set()  # what the user has been told

    @property
    def selector(self) -> str:
        """The machines that jobs may go to now: Ray's condition on the label ray.io/node-id."""
        usable = [node_id for node_id in self._usable if node_id not in self._unfit]
        return f"in({','.join(sorted(usable)) or 'none'})"  # the empty list is not allowed, and no id is "none"

    def leave_out(self, node_id: str, why: str) -> None:
        """Give a machine no more jobs until it passes a check."""
        self._unfit[node_id] = (why, time.monotonic())

    def room(self, wait_s: float = 0.0) -> ClusterCapacity:
        """What there is now, after `wait_s` at most, without the machines that are left out or have not answered."""
        import ray

        nodes = [node for node in ray.nodes() if node["Alive"] and _fitting(node, self._need)]
        if due := [node["NodeID"] for node in nodes if self._is_due(node["NodeID"])]:
            self._check(due, wait_s)
        usable = [node for node in nodes if node["NodeID"] in self._memory and node["NodeID"] not in self._unfit]
        self._usable = [node["NodeID"] for node in usable]
        sizes = [size for node_id in self._usable if (size := self._memory[node_id]) is not None]
        return ClusterCapacity(capacity=capacity(usable, self._need), gpu_memory_mib=min(sizes, default=None))

    def first_room(self) -> ClusterCapacity:
        """`room`, before the first job: raises UserError naming each machine that cannot run jobs, and why, and where
        nothing fits."""
        import ray

        room = self.room(CHECK_TIMEOUT_S)
        if problems := _named(dict.fromkeys(self._late(0), NO_ANSWER) | self._reasons()):
            raise UserError(problems)
        if room.capacity == 0:
            raise no_room(ray.nodes(), self._need)
        return room

    def watch(self, room: ClusterCapacity, send: Callable[[ClusterCapacity | str | Exception], None]) -> None:
        """Send what follows `room` as machines come and go, and words on those that get no job, from a thread that ends
        with the process."""

        def look() -> None:
            known = room
            while True:
                time.sleep(WATCH_S)
                try:
                    now = self.room()
                    for note in self._notes():
                        send(note)
                except Exception:
                    send(RuntimeError(traceback.format_exc()))
                    return
                if now != known:
                    send(now)
                    known = now

        threading.Thread(target=look, daemon=True).start()

    def _notes(self) -> list[str]:
        """What to say of machines that get no job, once."""
        late = dict.fromkeys(self._late(CHECK_TIMEOUT_S), f"{NO_ANSWER}; it gets no trial before it does")
        unfit = {
            node_id: f"{why}; the run goes on without it until that is mended"
            for node_id, why in self._reasons().items()
        }
        notes = {str(problem) for problem in _named(late | unfit)} - self._noted
        self._noted |= notes
        return sorted(notes)

    def _late(self, seconds: float) -> list[str]:
        """The ids of machines that were asked so long ago and have not answered."""
        now = time.monotonic()
        return [node_id for node_id, (_, since) in self._asked.items() if now - since >= seconds]

    def _reasons(self) -> dict[str, str]:
        return {node_id: why for node_id, (why, _) in self._unfit.copy().items()}

    def _is_due(self, node_id: str) -> bool:
        """Whether a machine is to be checked: a new one, or one that is left out, for it may have been mended."""
        if (unfit := self._unfit.get(node_id)) is None:
            return node_id not in self._memory
        return time.monotonic() - unfit[1] >= CHECK_AGAIN_S

    def _check(self, ids: list[str], wait_s: float) -> None:
        """Learn which machines can run jobs, of those that have answered after `wait_s` at most."""
        if self._mark is None:
            self._memory |= {node_id: gpu_memory_mib() if self._need.gpus else None for node_id in ids}
            return
        self._mark.renew()
        for node_id, answer in self._answers(ids, self._mark, wait_s).items():
            if isinstance(answer, str):
                self.leave_out(node_id, answer)
            elif not self._mark.is_answered(node_id):
                sentence = f"writes to another {self._mark.folder} than this machine: --out must be a shared folder"
                self.leave_out(node_id, sentence)
            else:
                (self._memory[node_id],) = answer
                self._unfit.pop(node_id, None)

    def _answers(self, ids: list[str], mark: FolderProbe, wait_s: float) -> dict[str, Answer]:
        """Of those that have answered after `wait_s` at most, by id. All are asked at the same time."""
        import ray

        self._asked = {
            node_id: self._asked.get(node_id) or (_ask(node_id, mark, with_gpu=bool(self._need.gpus)), time.monotonic())
            for node_id in ids  # without machines that have left
        }
        ready, _ = ray.wait([answer for answer, _ in self._asked.values()], num_returns=len(ids), timeout=wait_s)
        return {node_id: _answer(self._asked.pop(node_id)[0]) for node_id in ids if self._asked[node_id][0] in ready}


def _named(sentences: dict[str, str]) -> list[Problem]:
    """Of those machines that are there, by their addresses instead of their ids."""
    import ray

    there = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    return [Problem(there[node_id], "", sentence) for node_id, sentence in sentences.items() if node_id in there]


def _ask(node_id: str, mark: FolderProbe, *, with_gpu: bool) -> Any:
    """Ray's reference to the Answer of a machine."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A worker of its own for each, so that none of them stays with what it has imported or opened.
    task = ray.remote(num_cpus=0, max_calls=1, max_retries=0)(_check_here)
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return task.options(scheduling_strategy=there).remote(mark, node_id, with_gpu)


def _answer(reference: Any) -> Answer:
    import ray

    try:
        answer: Answer = ray.get(reference)
    except ray.exceptions.RayError as error:
        return f"cannot run this program: {str(error).strip().splitlines()[-1]}"
    return answer


def _check_here(mark: FolderProbe, node_id: str, with_gpu: bool) -> Answer:
    """Runs on the machine in question."""
    return mark.answer(node_id) or (gpu_memory_mib() if with_gpu else None,)
