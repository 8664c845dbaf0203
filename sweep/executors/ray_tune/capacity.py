"""How many jobs fit on the nodes of a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sweep.executors.base import ResourceRequest

Node = dict[str, Any]  # as ray.nodes() describes it


@dataclass(frozen=True, kw_only=True)
class ClusterCapacity:
    """What the cluster has for jobs now."""

    slots: int  # jobs that can run concurrently
    gpu_memory_mib: float | None  # of the smallest GPU; None without a GPU, or if it is unknown


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
