"""One isolated measurement, for real: what it counts, and which trials share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from fake_training import FakeTrainer, fake_measure, fake_trial, job_of

from famba_core.config import AugmentConfig, DataConfig, FusionSchedule, TrainConfig
from famba_core.device import device_name
from famba_core.training.step import TrainStep
from sweep.executors.base import MeasureJob
from sweep.plan.identity import measure_id
from sweep.plan.model import Trial
from sweep.price.training_time import WARMUP_STEPS
from sweep.store.study import read_measurements, write_measurement
from sweep.worker.job import run_job
from sweep.worker.measure import measure, measure_all

TRIAL = replace(
    fake_trial(0),
    model=replace(fake_trial(0).model, image_size=8),
    fusion=FusionSchedule(schedule=(0,) * 22 + (1, 1)),
)


def with_train(trial: Trial, **changes: object) -> Trial:
    return replace(trial, train=replace(trial.train, **changes))


@pytest.fixture
def threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_measurement_is_of_whole_training_steps(threads: object, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[tuple[int, ...]] = []
    step = TrainStep.__call__

    def plural(self: TrainStep, images: torch.Tensor, *rest: object) -> torch.Tensor:
        batches.append((*images.shape, torch.get_num_threads()))
        return step(self, images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainStep, "__call__", plural)
    row = measure(TRIAL)
    assert len(batches) == WARMUP_STEPS["cpu"] + row.timed_steps + 1  # the last for its memory
    assert set(batches) == {(32, 3, 8, 8, 1)}
    assert row.timed_steps >= 5
    assert 0 < row.step_time_q25_ms <= row.step_time_ms <= row.step_time_q75_ms
    assert row.throughput_img_per_s == pytest.approx(32 / (row.step_time_ms / 1e3))
    assert row.steps_per_epoch == 64 // 32
    assert (row.batch_size, row.cpus_per_trial, row.schedule) == (32, 1, TRIAL.fusion.schedule)
    assert row.device_name == device_name(torch.device("cpu"))
    assert row.peak_memory_source == "cpu_tensor_bytes"


def test_a_batch_is_no_larger_than_the_data(threads: object) -> None:
    row = measure(replace(with_train(TRIAL, batch_size=1000), data=replace(TRIAL.data, train_images=50)))
    assert row.steps_per_epoch == 1
    assert row.throughput_img_per_s == pytest.approx(50 / (row.step_time_ms / 1e3))


def test_memory_is_what_a_step_holds_whatever_was_measured_before(threads: object) -> None:
    alone = measure(TRIAL).peak_memory_mib
    larger = measure(with_train(TRIAL, batch_size=64)).peak_memory_mib
    averaged = measure(with_train(TRIAL, ema=False)).peak_memory_mib
    assert measure(TRIAL).peak_memory_mib == alone
    parameters = sum(p.numel() for p in _parameters(TRIAL)) * 4 / 2**20
    assert alone - averaged == pytest.approx(parameters, rel=0.01)
    activations = larger - alone  # of 32 images
    # weights, gradients, two moments and the average, and the activations of the batch
    assert alone == pytest.approx(5 * parameters + activations, rel=0.15)


def _parameters(trial: Trial) -> list[torch.nn.Parameter]:
    from famba_core.models.registry import build_model

    return list(build_model(trial.model, trial.fusion).parameters())


def test_a_stored_measurement_reads_back_unchanged(threads: object, tmp_path: Path) -> None:
    row = replace(measure(TRIAL), git_commit="1234abcd")
    write_measurement(tmp_path, row)
    stored, damaged = read_measurements(tmp_path)
    assert not damaged
    (found,) = stored.to_dict("records")
    assert {field.name: found[field.name] for field in fields(row)} == vars(row)


def test_a_job_continues_after_a_failed_measurement(tmp_path: Path, threads: object) -> None:
    nowhere = replace(TRIAL, data=DataConfig(dataset="imagefolder", data_dir=str(tmp_path / "nowhere")))
    ended = list(measure_all((nowhere, TRIAL), tmp_path))
    assert [event.measure_id for event in ended] == [measure_id(nowhere), measure_id(TRIAL)]
    assert ended[0].error is not None
    assert "nowhere" in ended[0].error
    assert ended[1].error is None
    assert read_measurements(tmp_path)[0]["measure_id"].tolist() == [measure_id(TRIAL)]


def test_a_job_takes_a_whole_gpu_if_trials_take_a_part_of_one() -> None:
    job = MeasureJob(trials=(replace(TRIAL, cpus_per_trial=3, gpus_per_trial=0.25), TRIAL))
    assert (job.resources.cpus, job.resources.gpus) == (3, 1.0)
    assert MeasureJob(trials=(TRIAL,)).resources.gpus == 0


OTHER_TRAIN = {
    "epochs": 7, "lr": 0.1, "min_lr": 0.1, "warmup_epochs": 2, "warmup_lr": 0.1, "weight_decay": 0.7,
    "label_smoothing": 0.3, "ema_decay": 0.5, "seed": 9, "batch_size": 33, "ema": False, "precision": "bf16",
    "recompute": True,
}  # fmt: skip


def test_settings_that_cost_nothing_in_a_step_share_a_measurement() -> None:
    names = {field.name for field in fields(TrainConfig)}
    differing = {
        name for name in names if measure_id(with_train(TRIAL, **{name: OTHER_TRAIN[name]})) != measure_id(TRIAL)
    }
    assert differing == {"batch_size", "ema", "precision", "recompute"} & names


@pytest.mark.parametrize(
    "change",
    [
        lambda trial: replace(trial, fusion=replace(trial.fusion, schedule=(0,) * 22 + (2, 0))),
        lambda trial: replace(trial, fusion=replace(trial.fusion, order="raster")),
        lambda trial: replace(trial, fusion=replace(trial.fusion, weighting="size")),
        lambda trial: replace(trial, model=replace(trial.model, backbone="vim_micro")),
        lambda trial: replace(trial, model=replace(trial.model, image_size=16)),
        lambda trial: replace(trial, augment=AugmentConfig(mixup=0.0)),
        lambda trial: replace(trial, data=replace(trial.data, train_images=32)),
        lambda trial: replace(trial, cpus_per_trial=2),
        lambda trial: replace(trial, gpus_per_trial=1.0),
    ],
)
def test_settings_that_change_a_step_change_its_measure_id(change: Callable[[Trial], Trial]) -> None:
    assert measure_id(change(TRIAL)) != measure_id(TRIAL)


@pytest.mark.parametrize(
    "change",
    [
        lambda trial: replace(trial, fusion=FusionSchedule(schedule=trial.fusion.schedule)),
        lambda trial: replace(trial, data=replace(trial.data, data_dir="/elsewhere")),
        lambda trial: replace(trial, model=replace(trial.model, patch_size=4)),
        lambda trial: replace(trial, trial_id="other", study="other"),
    ],
)
def test_labels_and_resources_do_not_change_the_measure_id(change: Callable[[Trial], Trial]) -> None:
    assert measure_id(change(TRIAL)) == measure_id(TRIAL)


def test_trials_that_share_a_gpu_share_the_measurement_of_a_whole_one() -> None:
    ids = {measure_id(replace(TRIAL, gpus_per_trial=share)) for share in (0.25, 0.5, 1.0)}
    assert len(ids) == 1


def test_without_fusion_its_order_makes_no_difference() -> None:
    unfused = [FusionSchedule(schedule=(0,) * 24, order=order) for order in ("concat", "raster")]
    assert len({measure_id(replace(TRIAL, fusion=fusion)) for fusion in unfused}) == 1


def test_a_gpu_that_is_another_than_the_measured_one_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log.txt"
    log.touch()
    monkeypatch.setattr("famba_core.training.trainer.Trainer", FakeTrainer)
    monkeypatch.setattr("sweep.worker.measure.measure", fake_measure(log))  # on a device that is called "fake"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    names = iter(("fake", "another"))
    monkeypatch.setattr("famba_core.device.device_name", lambda device: next(names))
    counts = []
    for seed in range(3):
        list(run_job(job_of(fake_trial(seed, gpus=1)), tmp_path))
        counts.append(len(log.read_text().splitlines()))
    assert counts == [1, 1, 2]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    list(run_job(job_of(fake_trial(3, gpus=1)), tmp_path))
    assert len(log.read_text().splitlines()) == 2, "nothing can be measured here"
