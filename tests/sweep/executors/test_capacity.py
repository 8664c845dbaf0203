"""How many jobs fit on nodes, which are given as Ray describes them."""

from __future__ import annotations

from typing import Any

import pytest

from sweep.executors.base import ResourceRequest
from sweep.executors.ray_tune.nodes import count_slots, describe_shortage


def node(*, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {name.replace("_type_", "_type:"): value for name, value in resources.items()}}


A100 = {"CPU": 16.0, "GPU": 8.0, "accelerator_type_A100": 1.0}
H100 = {"CPU": 64.0, "GPU": 8.0, "accelerator_type_H100": 1.0}


@pytest.mark.parametrize(
    ("request_of_job", "nodes", "slots"),
    [
        ({"cpus": 2}, [{"CPU": 8.0}], 4),
        ({"cpus": 2}, [{"CPU": 3.0}, {"CPU": 5.0, "GPU": 1.0}], 1 + 2),
        ({"gpus": 0.5}, [{"CPU": 8.0, "GPU": 2.0}], 4),
        ({"gpus": 1}, [{"CPU": 64.0}, {"CPU": 2.0, "GPU": 4.0}], 2),
        ({"gpus": 0.3333}, [H100], 24),
        ({"gpus": 1 / 3}, [H100], 24),
        ({"gpus": 0.6}, [H100], 8),
        ({"gpus": 2}, [{"CPU": 64.0, "GPU": 5.0}, {"CPU": 64.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 8.0}], 2 + 0 + 1),
        ({"gpus": 8}, [A100, H100], 2),
        ({"gpus": 9}, [A100, H100], 0),
        ({"gpus": 1, "accelerator_type": "H100"}, [A100, H100, H100], 16),
        ({"gpus": 1, "accelerator_type": "H200"}, [A100, H100], 0),
        ({"cpus": 4}, [], 0),
    ],
)
def test_count_slots(request_of_job: dict[str, Any], nodes: list[dict[str, float]], slots: int) -> None:
    dead = node(alive=False, CPU=100.0, GPU=100.0)
    request = ResourceRequest(**({"cpus": 1} | request_of_job))
    assert count_slots([dead, *(node(**resources) for resources in nodes)], request) == slots


def test_the_largest_request_covers_every_job() -> None:
    requests = [ResourceRequest(cpus=4), ResourceRequest(cpus=1, gpus=0.5, accelerator_type="A100")]
    assert ResourceRequest.largest(requests) == ResourceRequest(cpus=4, gpus=0.5, accelerator_type="A100")


def test_a_shortage_is_described_with_the_machines_that_exist() -> None:
    nodes = [node(**A100), node(**A100), node(CPU=4.0), node(alive=False, **H100)]
    request = ResourceRequest(cpus=8, gpus=1, accelerator_type="H100")
    assert describe_shortage(nodes, request) == (
        "a trial takes 8 CPUs and 1 GPUs (cpus_per_trial, gpus_per_trial) of type H100 (accelerator_type), but no "
        "machine has that much. The machines have: 2 x 16 CPUs and 8 GPUs (A100); 4 CPUs and 0 GPUs"
    )
