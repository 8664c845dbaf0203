"""How many trials share a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_training import job_of
from PIL import Image

from famba_core.config import AugmentConfig, DataConfig, FusionSchedule, ModelConfig, TrainConfig
from famba_core.cost.work import StepSettings, step_cost
from sweep.executors.base import TrainJob
from sweep.executors.ray_tune.nodes import count_slots
from sweep.plan.model import Trial
from sweep.price.memory import CONTEXT_MIB, MOST_PER_GPU, predicted_peak_mib
from sweep.run.packing import pack

TRIAL = Trial(
    trial_id="t",
    study="study",
    profile="cifar-small",
    model=ModelConfig(backbone="vim_tiny", image_size=32, num_classes=10),
    fusion=FusionSchedule(schedule=(0,) * 24),
    data=DataConfig(dataset="digits"),
    augment=AugmentConfig(),
    train=TrainConfig(batch_size=128),
    cpus_per_trial=1,
    gpus_per_trial=1.0,
)
JOB = job_of(TRIAL)


def on_a_gpu(job: TrainJob) -> int:
    """How many of these an executor counts for one."""
    node = {"Alive": True, "Resources": {"CPU": 64.0, "GPU": 1.0}}
    return count_slots([node], job.resources)


@pytest.mark.parametrize("fitting", range(1, MOST_PER_GPU + 1))
def test_packing_counts_the_cuda_context_of_each_trial(fitting: int) -> None:
    peak = 5000.0
    memory = fitting * (peak + CONTEXT_MIB) / 0.9
    job = pack(JOB, peak, memory + 1, margin=0.1)
    share = job.resources.gpus
    assert on_a_gpu(job) == fitting
    # Ray rounds what is asked of it to this, and all of them must fit into one GPU.
    assert round(share, 4) == share
    assert fitting * round(10_000 * share) <= 10_000
    assert on_a_gpu(pack(JOB, peak, memory - 1, margin=0.1)) == max(1, fitting - 1)
    assert replace(job, resources=JOB.resources) == JOB


def test_packing_is_limited_and_a_large_trial_gets_a_whole_gpu() -> None:
    assert pack(JOB, 1.0, 1e6, margin=0.1).resources.gpus == 1 / MOST_PER_GPU
    assert pack(JOB, 50_000.0, 40_000.0, margin=0.1).resources.gpus == 1.0


def test_the_prediction_is_the_cost_models_and_the_images() -> None:
    step = step_cost(TRIAL.model, TRIAL.fusion.schedule or (), StepSettings(batch=128))
    images = 1797 * 3 * 32**2  # scikit-learn's digits, both splits, counted as if of 32 pixels
    assert predicted_peak_mib(TRIAL) == pytest.approx((step.peak_bytes + images) / 2**20)
    for less in (
        replace(TRIAL, train=replace(TRIAL.train, ema=False)),
        replace(TRIAL, train=replace(TRIAL.train, recompute=True)),
        replace(TRIAL, data=DataConfig(dataset="digits", train_images=64)),
        replace(TRIAL, fusion=FusionSchedule(schedule=(0,) * 10 + (5,) * 3 + (0,) * 11)),
    ):
        assert predicted_peak_mib(less) < predicted_peak_mib(TRIAL)


def test_images_of_a_folder_are_stored_larger_than_the_model_sees_them(tmp_path: Path) -> None:
    for split, n in (("train", 3), ("val", 2)):
        folder = tmp_path / split / "thing"
        folder.mkdir(parents=True)
        for i in range(n):
            Image.new("RGB", (8, 8)).save(folder / f"{i}.png")
    trial = replace(TRIAL, model=ModelConfig(backbone="vim_tiny", image_size=224, num_classes=1))
    step = step_cost(trial.model, trial.fusion.schedule or (), StepSettings(batch=3))  # of the 3 training images
    trial = replace(trial, data=DataConfig(dataset="imagefolder", data_dir=str(tmp_path)))
    assert predicted_peak_mib(trial) == pytest.approx((step.peak_bytes + 5 * 3 * 256**2) / 2**20)
