"""How many jobs fit on machines, as Ray describes them."""

from __future__ import annotations

import pytest
from fake_jobs import FakeJob

from sweep.executors.ray_tune.nodes import ResourceRequest, capacity, no_room


def node(*, alive: bool = True, **resources: float) -> dict:
    return {"Alive": alive, "Resources": {name.replace("_type_", "_type:"): value for name, value in resources.items()}}


A100 = {"CPU": 16.0, "GPU": 8.0, "accelerator_type_A100": 1.0}
H100 = {"CPU": 64.0, "GPU": 8.0, "accelerator_type_H100": 1.0}


@pytest.mark.parametrize(
    ("takes", "machines", "fitting"),
    [
        ({"cpus_per_trial": 2}, [{"CPU": 8.0}], 4),
        ({"cpus_per_trial": 2}, [{"CPU": 3.0}, {"CPU": 5.0, "GPU": 1.0}], 1 + 2),
        ({"gpus_per_trial": 0.5}, [{"CPU": 8.0, "GPU": 2.0}], 4),
        ({"gpus_per_trial": 1}, [{"CPU": 64.0}, {"CPU": 2.0, "GPU": 4.0}], 2),
        ({"gpus_per_trial": 0.3333}, [H100], 24),
        ({"gpus_per_trial": 1 / 3}, [H100], 24),
        ({"gpus_per_trial": 0.6}, [H100], 8),
        ({"gpus_per_trial": 1, "accelerator_type": "H100"}, [A100, H100, H100], 16),
        ({"gpus_per_trial": 1, "accelerator_type": "H200"}, [A100, H100], 0),
        ({"cpus_per_trial": 4}, [], 0),
    ],
)
def test_capacity(takes: dict, machines: list[dict], fitting: int) -> None:
    dead = node(alive=False, CPU=100.0, GPU=100.0)
    assert (
        capacity([dead, *(node(**has) for has in machines)], ResourceRequest.of([FakeJob(job_id="", **takes)]))
        == fitting
    )


def test_the_need_is_that_of_the_largest_job() -> None:
    jobs = [
        FakeJob(job_id="cpu", cpus=4),
        FakeJob(job_id="gpu", gpus=0.5, accelerator_type="A100"),
    ]
    assert ResourceRequest.of(jobs) == ResourceRequest(cpus=4, gpus=0.5, accelerator_type="A100")


def test_a_refusal_says_what_there_is() -> None:
    nodes = [node(**A100), node(**A100), node(CPU=4.0), node(alive=False, **H100)]
    need = ResourceRequest.of([FakeJob(job_id="", cpus=8, gpus=1, accelerator_type="H100")])
    assert str(no_room(nodes, need)) == (
        "a trial takes 8 CPUs and 1 GPUs (cpus_per_trial, gpus_per_trial) of type H100 (accelerator_type), and no "
        "machine has that. There is: 2 x 16 CPUs and 8 GPUs (A100); 4 CPUs and 0 GPUs"
    )
