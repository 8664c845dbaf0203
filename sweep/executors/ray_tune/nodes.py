"""The nodes of a Ray cluster that jobs may use. Each is checked when it joins, and again some time after a failure."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from famba_core.errors import Problem
from sweep.errors import UserError
from sweep.executors.base import ResourceRequest
from sweep.executors.ray_tune.messages import ClusterCapacity, Failure, Note, ToDriver
from sweep.executors.ray_tune.node_check import FolderProbe, NodeCheck, check_node, read_gpu_memory_mib

CHECK_TIMEOUT_S = 60.0
RECHECK_S = 60.0  # from a node's failure to its next check
WATCH_S = 1.0
Node = dict[str, Any]  # as ray.nodes() describes it


class NodePool:
    """Decides which nodes get jobs: those that fit the request and have passed a check.

    Without a probe Ray runs on this machine only, which needs no check. One thread updates the pool; another one reads
    `selector` and calls `exclude`.
    """

    def __init__(self, request: ResourceRequest, probe: FolderProbe | None) -> None:
        self._request, self._probe = request, probe
        self._pending: dict[str, tuple[Any, float]] = {}  # by node id: Ray's reference to a running check, its start
        self._checks: dict[str, tuple[NodeCheck, float]] = {}  # by node id: the last result, its time
        self._usable: list[str] = []  # ids of the nodes that the last ClusterCapacity counts
        self._noted: set[str] = set()

    @property
    def selector(self) -> str:
        """Ray's condition on the label ray.io/node-id that selects the nodes for jobs."""
        usable = sorted(filter(self._has_passed, self._usable))
        return f"in({','.join(usable) or 'none'})"  # Ray does not allow an empty list, and no id is "none"

    def exclude(self, node_id: str, problem: str) -> None:
        """Give a node no more jobs until it passes a check."""
        self._checks[node_id] = NodeCheck(problem=problem), time.monotonic()

    def update(self, wait_s: float = 0.0) -> ClusterCapacity:
        """Start the checks that are due, wait up to `wait_s` for their results, and return the capacity now."""
        nodes = {node["NodeID"]: node for node in ray.nodes() if count_slots([node], self._request)}
        if due := list(filter(self._is_due, nodes)):
            for node_id, check in self._run_checks(due, wait_s).items():
                self._checks[node_id] = check, time.monotonic()
        self._usable = list(filter(self._has_passed, nodes))
        sizes = [size for node_id in self._usable if (size := self._checks[node_id][0].gpu_memory_mib) is not None]
        slots = count_slots((nodes[node_id] for node_id in self._usable), self._request)
        return ClusterCapacity(slots=slots, gpu_memory_mib=min(sizes, default=None))

    def check_all(self) -> ClusterCapacity:
        """Check all nodes before the first job and return their capacity.

        Raises UserError that names each node that cannot run jobs, or if no node has what a job needs.
        """
        capacity = self.update(CHECK_TIMEOUT_S)
        if problems := self.list_problems():
            raise UserError(problems)
        if capacity.slots == 0:
            raise UserError(describe_shortage(ray.nodes(), self._request))
        return capacity

    def watch(self, capacity: ClusterCapacity, send: Callable[[ToDriver], None]) -> None:
        """Send each change of `capacity`, and a note about each node that gets no jobs, until an error occurs."""
        try:
            while True:
                time.sleep(WATCH_S)
                now = self.update()
                for sentence in self.take_notes():
                    send(Note(sentence))
                if now != capacity:
                    send(now)
                    capacity = now
        except Exception as error:
            send(Failure.of(error))

    def take_notes(self) -> list[str]:
        """Return what the user must know of nodes that get no jobs; each sentence once."""
        new = {str(problem) for problem in self.list_problems()} - self._noted
        self._noted |= new
        return [f"{problem}; the run continues without it until that is fixed" for problem in sorted(new)]

    def list_problems(self) -> list[Problem]:
        """List why nodes of the cluster get no jobs, by their addresses."""
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        checks = self._checks.copy()  # because the other thread may add one
        problems = {node_id: check.problem for node_id, (check, _) in checks.items() if node_id in addresses}
        return [Problem(addresses[node_id], "", problem) for node_id, problem in problems.items() if problem]

    def _has_passed(self, node_id: str) -> bool:
        return node_id in self._checks and self._checks[node_id][0].problem is None

    def _is_due(self, node_id: str) -> bool:
        """True if a check must run: on a new node, or on one that failed a while ago and may be fixed."""
        if node_id not in self._checks or node_id in self._pending:
            return True
        return not self._has_passed(node_id) and time.monotonic() - self._checks[node_id][1] >= RECHECK_S

    def _run_checks(self, node_ids: list[str], wait_s: float) -> dict[str, NodeCheck]:
        """Start a check on each of these nodes that has none; return the results that come within `wait_s`."""
        now = time.monotonic()
        with_gpu = self._request.gpus > 0
        if self._probe is None:
            return dict.fromkeys(node_ids, NodeCheck(gpu_memory_mib=read_gpu_memory_mib() if with_gpu else None))
        self._probe.restore()
        self._pending = {
            node_id: self._pending.get(node_id) or (_start_check(node_id, self._probe, with_gpu), now)
            for node_id in node_ids  # nodes that left are dropped
        }
        references = [reference for reference, _ in self._pending.values()]
        ready, _ = ray.wait(references, num_returns=len(references), timeout=wait_s)
        results = {}
        for node_id, (reference, start) in list(self._pending.items()):
            if reference in ready:
                results[node_id] = _read_result(reference, node_id, self._probe)
                del self._pending[node_id]
            elif now + wait_s - start >= CHECK_TIMEOUT_S:  # and remains pending
                results[node_id] = NodeCheck(problem=f"the machine has not answered within {CHECK_TIMEOUT_S:g} s")
        return results


def _start_check(node_id: str, probe: FolderProbe, with_gpu: bool) -> Any:
    """Start a check on a node and return Ray's reference to its NodeCheck."""
    # Each check has a worker process of its own, so that no worker stays with what it has imported or opened.
    task = ray.remote(num_cpus=0, max_calls=1, max_retries=0)(check_node)
    on_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return task.options(scheduling_strategy=on_node).remote(probe, node_id, with_gpu)


def _read_result(reference: Any, node_id: str, probe: FolderProbe) -> NodeCheck:
    try:
        check: NodeCheck = ray.get(reference)
    except ray.exceptions.RayError as error:
        return NodeCheck(problem=f"the machine cannot run this program: {str(error).strip().splitlines()[-1]}")
    if check.problem is None and not probe.collect_answer(node_id):
        problem = f"the machine writes to another {probe.folder} than the driver: --out must be a shared folder"
        return NodeCheck(problem=problem)
    return check


def count_slots(nodes: Iterable[Node], request: ResourceRequest) -> int:
    """Return how many jobs with this request fit concurrently; a job runs on one node, a share of a GPU on one GPU."""
    return sum(_count_on_node(node["Resources"], request) for node in nodes if node["Alive"])


def _count_on_node(resources: dict[str, float], request: ResourceRequest) -> int:
    if request.accelerator_type and f"accelerator_type:{request.accelerator_type}" not in resources:
        return 0
    on_cpus = int(resources.get("CPU", 0) // request.cpus)
    if not request.gpus:
        return on_cpus
    gpus = int(resources.get("GPU", 0))
    on_gpus = gpus // int(request.gpus) if request.gpus >= 1 else gpus * int(1 / request.gpus + 1e-6)
    return min(on_cpus, on_gpus)


def describe_shortage(nodes: Iterable[Node], request: ResourceRequest) -> str:
    """Return the sentence that says that no node has what a job needs, and what the nodes have."""
    kinds = Counter(_describe(node["Resources"]) for node in nodes if node["Alive"])
    available = "; ".join(f"{n} x {kind}" if n > 1 else kind for kind, n in kinds.items())
    return f"a trial takes {request}, but no machine has that much. The machines have: {available}"


def _describe(resources: dict[str, float]) -> str:
    types = ", ".join(sorted(name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")))
    of_type = f" ({types})" if types else ""
    return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs{of_type}"
