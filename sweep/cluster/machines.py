"""The machines of a Ray cluster: how many jobs fit on them, whether they can run the study's, who comes and goes."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sweep.cluster.node_check import Mark, gpu_memory_mib
from sweep.errors import Problem, UserError
from sweep.executor import Job

CHECK_TIMEOUT_S = 60.0
WATCH_S = 1.0

NO_ANSWER = f"has not answered within {CHECK_TIMEOUT_S:g} s"

Node = dict[str, Any]  # as ray.nodes() describes it
Answer = str | tuple[float | None]  # why a machine cannot run jobs, or the memory of its GPUs


@dataclass(frozen=True, kw_only=True)
class Need:
    """What the largest job takes."""

    cpus: int
    gpus: float
    accelerator_type: str | None

    @classmethod
    def of(cls, jobs: Sequence[Job]) -> Need:
        return cls(
            cpus=max(job.cpus_per_trial for job in jobs),
            gpus=max(job.gpus_per_trial for job in jobs),
            accelerator_type=next((job.accelerator_type for job in jobs if job.accelerator_type), None),
        )

    def __str__(self) -> str:
        of_type = f" of type {self.accelerator_type} (accelerator_type)" if self.accelerator_type else ""
        return f"{self.cpus} CPUs and {self.gpus:g} GPUs (cpus_per_trial, gpus_per_trial){of_type}"


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the cluster has for jobs now."""

    capacity: int  # jobs at the same time
    gpu_memory_mib: float | None  # of the smallest GPU; None without one, or where nobody knows


def capacity(nodes: Iterable[Node], need: Need) -> int:
    """How many jobs fit at the same time on `nodes`; a job lives on one machine."""
    return sum(_fitting(node, need) for node in nodes if node["Alive"])


def _fitting(node: Node, need: Need) -> int:
    has = node["Resources"]
    if need.accelerator_type and f"accelerator_type:{need.accelerator_type}" not in has:
        return 0
    on_cpus = int(has.get("CPU", 0) // need.cpus)
    if not need.gpus:
        return on_cpus
    return min(on_cpus, int(has.get("GPU", 0)) * int(1 / need.gpus + 1e-6))  # a job does not span two GPUs


def no_room(nodes: Iterable[Node], need: Need) -> UserError:
    """What the user is told when no machine has what one job takes."""
    kinds = Counter(_describe(node) for node in nodes if node["Alive"])
    machines = "; ".join(f"{n} x {kind}" if n > 1 else kind for kind, n in kinds.items())
    return UserError(f"a trial takes {need}, and no machine has that. There is: {machines}")


def _describe(node: Node) -> str:
    has = node["Resources"]
    types = ", ".join(sorted(name.partition(":")[2] for name in has if name.startswith("accelerator_type:")))
    return f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs{f' ({types})' if types else ''}"


class Machines:
    """The cluster that this process has joined, as far as jobs like `need` are concerned.

    Every machine that may get one is checked before it counts; without `mark` (Ray runs on this machine alone) there is
    nothing to check.
    """

    def __init__(self, need: Need, mark: Mark | None) -> None:
        self._need, self._mark = need, mark
        self._memory: dict[str, float | None] = {}  # of the GPUs of checked machines, by the node's id
        self._asked: dict[str, tuple[Any, float]] = {}  # by the node's id, the answer to come, and since when
        self._noted: set[str] = set()  # nodes that are known to be slow

    def room(self, wait_s: float = 0.0) -> Room:
        """What there is now, after `wait_s` at most, without the machines that have not answered yet.

        Raises UserError naming each machine that cannot run jobs, and why.
        """
        import ray

        nodes = [node for node in ray.nodes() if node["Alive"] and _fitting(node, self._need)]
        if new := [node for node in nodes if node["NodeID"] not in self._memory]:
            self._memory |= self._checked(new, wait_s)
        checked = [node for node in nodes if node["NodeID"] in self._memory]
        sizes = [size for node in checked if (size := self._memory[node["NodeID"]]) is not None]
        return Room(capacity=capacity(checked, self._need), gpu_memory_mib=min(sizes, default=None))

    def first_room(self) -> Room:
        """`room`, before the first job: raises UserError also where nothing fits."""
        import ray

        room = self.room(CHECK_TIMEOUT_S)
        if late := self._late(0):
            raise UserError([Problem(node["NodeManagerAddress"], "", NO_ANSWER) for node in late])
        if room.capacity == 0:
            raise no_room(ray.nodes(), self._need)
        return room

    def watch(self, room: Room, send: Callable[[Room | str | Exception], None]) -> None:
        """Send what follows `room` as machines come and go, and words on slow ones, from a thread that ends with the
        process."""

        def look() -> None:
            known = room
            while True:
                time.sleep(WATCH_S)
                try:
                    now = self.room()
                    for note in self._slow():
                        send(note)
                except UserError as error:
                    send(error)
                    return
                except Exception:
                    send(RuntimeError(traceback.format_exc()))
                    return
                if now != known:
                    send(now)
                    known = now

        threading.Thread(target=look, daemon=True).start()

    def _late(self, seconds: float) -> list[Node]:
        """The machines that were asked so long ago and have not answered."""
        import ray

        asked = {node_id for node_id, (_, since) in self._asked.items() if time.monotonic() - since >= seconds}
        return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] in asked]

    def _slow(self) -> list[str]:
        """What to say of machines that have joined and do not answer, once of each."""
        slow = [node for node in self._late(CHECK_TIMEOUT_S) if node["NodeID"] not in self._noted]
        self._noted |= {node["NodeID"] for node in slow}
        return [f"{node['NodeManagerAddress']}: {NO_ANSWER}; it gets no trial before it does" for node in slow]

    def _checked(self, nodes: list[Node], wait_s: float) -> dict[str, float | None]:
        """The memory of their GPUs, by id, without machines that left meanwhile or have not answered."""
        if self._mark is None:
            return {node["NodeID"]: gpu_memory_mib() if self._need.gpus else None for node in nodes}
        answers = self._answers(nodes, self._mark, wait_s)
        there = _alive()
        sizes: dict[str, float | None] = {}
        problems = []
        for node in nodes:
            node_id = node["NodeID"]
            if (answer := answers.get(node_id)) is None:
                continue
            if isinstance(answer, str):
                if node_id in there:
                    problems.append(Problem(node["NodeManagerAddress"], "", answer))
            elif not self._mark.is_answered(node_id):
                sentence = f"writes to another {self._mark.folder} than this machine: --out must be a shared folder"
                problems.append(Problem(node["NodeManagerAddress"], "", sentence))
            else:
                (sizes[node_id],) = answer
        if problems:
            raise UserError(problems)
        return sizes

    def _answers(self, nodes: list[Node], mark: Mark, wait_s: float) -> dict[str, Answer]:
        """Of those of `nodes` that have answered after `wait_s` at most, by id. All are asked at the same time."""
        import ray

        ids = [node["NodeID"] for node in nodes]
        self._asked = {
            node_id: self._asked.get(node_id) or (_ask(node_id, mark, with_gpu=bool(self._need.gpus)), time.monotonic())
            for node_id in ids  # without machines that have left
        }
        ready, _ = ray.wait([answer for answer, _ in self._asked.values()], num_returns=len(ids), timeout=wait_s)
        return {node_id: _answer(self._asked.pop(node_id)[0]) for node_id in ids if self._asked[node_id][0] in ready}


def _alive() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _ask(node_id: str, mark: Mark, *, with_gpu: bool) -> Any:
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


def _check_here(mark: Mark, node_id: str, with_gpu: bool) -> Answer:
    """Runs on the machine in question."""
    return mark.answer(node_id) or (gpu_memory_mib() if with_gpu else None,)
