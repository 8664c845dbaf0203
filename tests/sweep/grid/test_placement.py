"""Flags over the grid's pool over the profile's resources."""

import pytest

from sweep.errors import UserError
from sweep.grid.resources import FLAGS, Pool, Resources, resolve_resources

CPU, GPU = Resources(cpus_per_trial=2), Resources(cpus_per_trial=2, gpus_per_trial=1.0)


def occupied(resources, pool=None, **flags):
    found, _ = resolve_resources(resources, pool or Pool(), flags, "laptop")
    return found.cpus_per_trial, found.gpus_per_trial


def test_every_flag_sets_an_entry_of_the_pool():
    assert set(FLAGS.values()) <= set(Pool.__dataclass_fields__)
    assert len(set(FLAGS.values())) == len(FLAGS)


def test_the_pool_wins_over_the_profile_and_the_flag_over_both():
    pool = Pool(cpus_per_trial=3, gpus_per_trial=0.5, max_concurrent=4, grace_s=1)
    assert occupied(GPU) == (2, 1.0)
    assert occupied(GPU, pool) == (3, 0.5)
    assert occupied(GPU, pool, cpus_per_trial=5, gpus_per_trial=0.25) == (5, 0.25)
    _, left = resolve_resources(GPU, pool, {"grace_s": 9.0, "gpu_hours": 7.0}, "paper")
    assert left == Pool(cpus_per_trial=3, gpus_per_trial=0.5, max_concurrent=4, grace_s=9.0, gpu_hours=7.0)


def test_the_grids_pool_leaves_a_cpu_profile_on_the_cpu_and_the_flag_moves_it():
    pool = Pool(gpus_per_trial=0.5, accelerator_type="H100", gpu_hours=3, gpu_memory_gib=20, max_concurrent=2)
    resources, left = resolve_resources(CPU, pool, {}, "laptop")
    assert resources == CPU
    assert left == Pool(max_concurrent=2)  # what is of GPUs alone is nothing that it could obey
    resources, left = resolve_resources(CPU, pool, {"gpus_per_trial": 1.0}, "laptop")
    assert resources.gpus_per_trial == 1.0
    assert (left.accelerator_type, left.gpu_hours) == ("H100", 3)
    assert occupied(GPU, pool, gpus_per_trial=0.0) == (2, 0.0)


def test_the_type_of_gpu_is_given_to_ray_in_its_spelling():
    _, left = resolve_resources(GPU, Pool(), {"accelerator_type": "a100_80gb"}, "paper")
    assert left.accelerator_type == "A100-80G"


def test_pack_plans_a_whole_gpu_and_stays_for_the_runner():
    resources, left = resolve_resources(GPU, Pool(gpus_per_trial="pack"), {}, "paper")
    assert (resources.gpus_per_trial, left.gpus_per_trial) == (1.0, "pack")
    assert occupied(CPU, gpus_per_trial="pack") == (2, 1.0)


def test_flags_for_gpus_on_a_profile_without_are_refused_all_together():
    with pytest.raises(UserError) as error:
        occupied(CPU, accelerator_type="H100", gpu_hours=3.0, max_concurrent=2)
    assert [problem.where for problem in error.value.problems] == ["--accelerator-type", "--gpu-hours"]
    assert "profile laptop trains on the CPU" in error.value.problems[0].sentence


def test_flags_that_cannot_be_are_refused_by_their_names():
    with pytest.raises(UserError) as error:
        occupied(GPU, gpus_per_trial=2.0, time_limit_h=-1.0, grace_s=-3.0)
    assert {problem.where for problem in error.value.problems} == {"--gpus-per-trial", "--time-limit", "--grace"}
