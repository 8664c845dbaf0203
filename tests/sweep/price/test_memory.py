"""Trials that do not fit in memory are refused before anything runs, or left out of a search."""

import dataclasses
import re

import pytest
from synthetic_study import result, save

from famba_core.cost.work import StepSettings, step_cost
from sweep.cli import main
from sweep.errors import UserError
from sweep.grid.spec import load_spec
from sweep.plan.build import make_plan
from sweep.price.device import PoolDevice, find_pool_device
from sweep.price.memory import keep_fitting, predicted_peak_mib

GRID = """
study: x
reference_patches: 196
baselines: [{strategy: all, r: 7}]
cases: [{strategy: none}, {strategy: upper, start_layer: 20, r: 9}, {strategy: lower, stop_layer: 19, r: 9}]
profiles:
  gpu: {dataset: digits, backbone: vim_tiny, gpus_per_trial: 1}
  cpu: {dataset: digits, backbone: vim_tiny, cpus_per_trial: 2}
"""
SEARCH = GRID.replace("cases:", "search: {kind: optuna}\ncases:")


@pytest.fixture
def plan(tmp_path):
    def load_and_plan(text=GRID, profile="gpu", **flags):
        path = tmp_path / "grid.yaml"
        path.write_text(text)
        return make_plan(load_spec(path), profile, flags=flags)

    return load_and_plan


def with_gib(gib, *, gpu=True):
    return PoolDevice(gpu=gpu, name="H100", memory_gib=gib, count=1)


def peak_gib(trial):
    return step_cost(trial.model, trial.fusion.schedule, StepSettings(batch=trial.train.batch_size)).peak_bytes / 2**30


def test_a_batch_larger_than_the_training_set_needs_memory_for_the_images_that_there_are(plan):
    small, large = (
        plan(GRID.replace("dataset: digits,", f"dataset: digits, train_images: 50, batch_size: {batch},"))
        for batch in (50, 5000)
    )
    for one, other in zip(small.trials, large.trials, strict=True):
        assert predicted_peak_mib(one) == predicted_peak_mib(other)


def test_trials_that_do_not_fit_are_reported_with_memory_and_fullest_layer(plan):
    made = plan()
    with pytest.raises(UserError) as error:
        keep_fitting(made, with_gib(3.5))
    assert [problem.where for problem in error.value.problems] == [made.trials[1].trial_id, made.trials[2].trial_id]
    for problem, trial, label in zip(
        error.value.problems, made.trials[1:3], ("none", "upper from layer 20, r 9"), strict=True
    ):
        said = re.fullmatch(
            r"(.+) needs about (\d+\.\d) GiB, in the backward pass of layer (\d+), and there are 3\.5 GiB of GPU "
            r"memory; choose a smaller batch_size or recompute: true",
            problem.sentence,
        )
        assert said
        assert said[1] == label
        # besides its tensors a process holds one GiB, and the images
        assert 0.9 < float(said[2]) - peak_gib(trial) < 1.5
        step = step_cost(trial.model, trial.fusion.schedule, StepSettings(batch=trial.train.batch_size))
        assert int(said[3]) == step.fullest_layer


def test_trials_that_share_a_gpu_share_its_memory(plan):
    made = plan(gpus_per_trial=0.25)
    assert keep_fitting(made, with_gib(80.0)) == made
    with pytest.raises(UserError, match=r"there are 3\.5 GiB of GPU memory for each of 4 trials on a GPU"):
        keep_fitting(made, with_gib(14.0))


def test_a_plan_that_fits_is_unchanged(plan):
    made = plan()
    assert keep_fitting(made, with_gib(80.0)) == made
    assert keep_fitting(made, with_gib(None)) == made


def test_a_search_drops_candidates_that_do_not_fit(plan):
    made = plan(SEARCH)
    kept = keep_fitting(made, with_gib(3.5))
    assert [kept.first_cases[trial.trial_id].strategy for trial in kept.trials] == ["all", "lower"]
    assert [case.strategy for case in kept.cases] == ["all", "lower"]
    assert dataclasses.replace(kept, trials=made.trials, cases=made.cases) == made


@pytest.mark.parametrize("text", [GRID, SEARCH], ids=["grid", "search"])
def test_stored_trials_are_kept_on_a_smaller_device(plan, text):
    made = plan(text)
    stored = [trial.trial_id for trial in made.trials[1:3]]  # that 3.5 GiB do not hold
    assert keep_fitting(made, with_gib(3.5), stored=stored) == made
    if made.search:
        kept = keep_fitting(made, with_gib(3.5), stored=stored[1:])
        assert [trial.trial_id for trial in kept.trials] == [made.trials[i].trial_id for i in (0, 2, 3)]
    else:
        with pytest.raises(UserError, match=stored[0]):
            keep_fitting(made, with_gib(3.5), stored=stored[1:])


def test_the_plan_command_keeps_stored_trials(tmp_path, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text(SEARCH + "pool: {gpu_memory_gib: 3.5}\n")
    given = ["plan", str(grid), "--profile", "gpu", "--out", str(tmp_path)]
    large = make_plan(load_spec(grid), "gpu").trials[1]
    assert main.main(given) == 0
    assert large.trial_id not in capsys.readouterr().out
    save(tmp_path / "x-gpu", [result(large)])
    assert main.main(given) == 0
    assert large.trial_id in capsys.readouterr().out


def test_a_baseline_that_does_not_fit_is_reported_alone(plan):
    swapped = SEARCH.replace("[{strategy: all, r: 7}]", "[{strategy: none}]").replace("{strategy: none}, {", "{", 1)
    made = plan(swapped)
    assert made.first_cases[made.trials[0].trial_id].strategy == "none"
    with pytest.raises(UserError) as error:
        keep_fitting(made, with_gib(3.5))
    assert [problem.where for problem in error.value.problems] == [made.trials[0].trial_id]


def test_a_search_with_no_candidate_left_is_refused(plan):
    with pytest.raises(UserError) as error:
        keep_fitting(plan(SEARCH), with_gib(0.5))
    assert len(error.value.problems) == 4
    only_baseline = SEARCH.replace(", {strategy: lower, stop_layer: 19, r: 9}", "")
    with pytest.raises(UserError, match="none needs about"):
        keep_fitting(plan(only_baseline), with_gib(3.5))


def test_gpu_memory_comes_from_the_pool_or_the_data_sheet(plan):
    def gib(**flags):
        return find_pool_device(plan(**flags), address="10.0.0.1:6379").memory_gib

    assert gib(gpu_memory_gib=33.0, accelerator_type="H200") == 33
    assert gib(accelerator_type="H200") == 141
    assert gib(accelerator_type="A100") == 40  # the smaller of the two that are sold
    assert gib(accelerator_type="A100-80G") == 80
    assert gib(accelerator_type="TPU-V4") is None
    assert gib() is None  # the cluster is not contacted


def test_cpu_memory_is_that_of_this_machine_unless_a_cluster_trains(plan):
    here = find_pool_device(plan(profile="cpu"), address=None)
    assert here.name.endswith("(2 threads)")
    assert 0.1 < here.memory_gib < 100_000
    assert here.count >= 1
    assert find_pool_device(plan(profile="cpu", cpus_per_trial=1024), address=None).count == 1
    there = find_pool_device(plan(profile="cpu"), address="auto")
    assert (there.memory_gib, there.count) == (None, None)
    with pytest.raises(UserError, match=r"there are 0\.5 GiB of memory"):
        keep_fitting(plan(profile="cpu"), with_gib(0.5, gpu=False))


def test_gpu_memory_is_read_from_this_machine_unless_a_cluster_trains(plan, monkeypatch):
    monkeypatch.setattr(
        "sweep.price.device._local_gpus", lambda: [("NVIDIA H200", 139.8), ("NVIDIA H200", 139.8), ("NVIDIA T4", 14.6)]
    )
    here = find_pool_device(plan(gpus_per_trial=0.25), address=None)
    assert here == PoolDevice(gpu=True, name="NVIDIA H200", memory_gib=14.6, count=3)  # the smallest has to do
    there = find_pool_device(plan(gpus_per_trial=0.25), address="auto")
    assert there == PoolDevice(gpu=True, name=None, memory_gib=None, count=None)
