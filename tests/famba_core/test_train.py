"""The trainer: resume bit for bit, killed or interrupted; what it refuses; what it measures."""

import os
import signal
import statistics
import subprocess
import sys
import warnings
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from famba_core import AugmentConfig, ConfigError, DataConfig, FusionConfig, ModelConfig, TrainConfig
from famba_core.cost import cost
from famba_core.data.image_dataset import ImageDataset, Split
from famba_core.train import CHECKPOINT, EpochMetrics, NonFiniteLoss, Trainer

FUSION = FusionConfig(schedule=(0, 3, 0, 2))
TRAIN = TrainConfig(epochs=4, batch_size=8, lr=3e-3, warmup_epochs=1)


def made_split(count: int, seed: int) -> Split:
    """Five classes that differ in brightness, with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 5
    noise = torch.randint(0, 60, (count, 3, 8, 8), generator=generator)
    return Split(images=(labels[:, None, None, None] * 45 + noise).to(torch.uint8), labels=labels)


@pytest.fixture
def made_data(monkeypatch: pytest.MonkeyPatch) -> None:
    data = ImageDataset(
        name="made", train=made_split(44, 0), test=made_split(25, 1), num_classes=5, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    monkeypatch.setattr("famba_core.train.load_dataset", lambda config, image_size, seed: data)


@pytest.fixture
def trainer(small_backbone: str, made_data: None) -> Any:
    """Make a Trainer; keywords replace those of TRAIN, or are the Trainer's."""

    def make(**changes: Any) -> Trainer:
        recipe = {field.name: changes.pop(field.name) for field in fields(TrainConfig) if field.name in changes}
        return Trainer(**{
            "model": ModelConfig(backbone=small_backbone, image_size=8, num_classes=5),
            "fusion": FUSION,
            "data": DataConfig(dataset="digits"),
            "augment": AugmentConfig(eval_crop=1.0),
            "train": replace(TRAIN, **recipe),
            "threads": 1,
            "device": "cpu",
        } | changes)  # fmt: skip

    return make


def assert_same_run(found: Trainer, expected: Trainer) -> None:
    """Equal to the last bit, times aside."""
    assert [without_time(epoch) for epoch in found.history] == [without_time(epoch) for epoch in expected.history]
    assert found.peak_bytes == expected.peak_bytes
    for name, value in expected.step.model.state_dict().items():
        assert torch.equal(found.step.model.state_dict()[name], value), name
    assert (found.step.ema is None) == (expected.step.ema is None)
    if expected.step.ema is not None:
        for name, value in expected.step.ema.state_dict().items():
            assert torch.equal(found.step.ema.state_dict()[name], value), name


def without_time(epoch: EpochMetrics) -> dict[str, object]:
    values = asdict(epoch)
    del values["train_time_s"]
    return values


def test_training_learns_and_reports_every_epoch(trainer):
    run = trainer(augment=AugmentConfig(crop_scale_min=1, flip=False, random_erasing=0, mixup=0, cutmix=0, eval_crop=1),
                  epochs=12, lr=1e-2)  # fmt: skip
    epochs = list(run)
    assert [epoch.epoch for epoch in epochs] == list(range(1, 13))
    assert epochs[-1].loss < epochs[0].loss
    assert epochs[-1].top1_pct > 50
    assert all(epoch.top5_pct == 100 and epoch.train_time_s > 0 for epoch in epochs)
    assert epochs[-1].lr == pytest.approx(1e-5)
    assert epochs[-1].top1_ema_pct is not None
    assert list(run) == [], "a finished run has no epoch left"


@pytest.mark.parametrize("changes", [{}, {"ema": False}, {"precision": "bf16"}], ids=["ema", "no ema", "bf16"])
@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_run_that_was_interrupted_goes_on_bit_for_bit(trainer, tmp_path, stop_after, changes):
    whole = trainer(**changes)
    list(whole)

    first = trainer(checkpoint=tmp_path / "run", **changes)
    for epoch in first:
        if epoch.epoch == stop_after:
            break
    torch.manual_seed(99)  # nothing may hang on the global generator
    torch.rand(17)
    second = trainer(checkpoint=tmp_path / "run", **changes)
    assert len(second.history) == stop_after
    list(second)
    assert_same_run(second, whole)
    assert second.result().train_time_s == pytest.approx(sum(epoch.train_time_s for epoch in second.history))


def test_an_interruption_inside_an_epoch_costs_that_epoch_alone(trainer, tmp_path):
    whole = trainer()
    list(whole)

    def interrupt(batches: Any) -> Any:
        for i, batch in enumerate(batches):
            if len(first.history) == 2 and i == 3:
                raise KeyboardInterrupt
            yield batch

    first = trainer(checkpoint=tmp_path, progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(first)
    second = trainer(checkpoint=tmp_path)
    assert len(second.history) == 2
    list(second)
    assert_same_run(second, whole)


KILLED = """
import sys, time
from pathlib import Path
from famba_core import *
from famba_core.config import BACKBONES, Backbone
from famba_core.train import Trainer

BACKBONES["small"] = Backbone(width=16, depth=4, state_size=4, patch_size=2)

def stall(batches):
    for i, batch in enumerate(batches):
        if len(trainer.history) == 2 and i == 1:
            print("in the middle of epoch 3", flush=True)
            time.sleep(600)
        yield batch

trainer = Trainer(
    model=ModelConfig(backbone="small", image_size=8, num_classes=10), fusion=FusionConfig(schedule=(0, 3, 0, 2)),
    data=DataConfig(dataset="digits", train_images=48), augment=AugmentConfig(eval_crop=1.0),
    train=TrainConfig(epochs=4, batch_size=8, lr=3e-3, warmup_epochs=1), threads=1, device="cpu",
    checkpoint=Path(sys.argv[1]), progress=stall,
)
list(trainer)
"""


def test_a_killed_process_is_resumed_bit_for_bit(small_backbone, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "in the middle of epoch 3\n"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def run(checkpoint: Path | None) -> Trainer:
        return Trainer(
            model=ModelConfig(backbone=small_backbone, image_size=8, num_classes=10), fusion=FUSION,
            data=DataConfig(dataset="digits", train_images=48), augment=AugmentConfig(eval_crop=1.0), train=TRAIN,
            threads=1, device="cpu", checkpoint=checkpoint,
        )  # fmt: skip

    resumed, whole = run(tmp_path), run(None)
    assert len(resumed.history) == 2
    list(resumed)
    list(whole)
    assert_same_run(resumed, whole)


def test_the_seed_is_what_makes_two_runs_differ(trainer):
    runs = [trainer(epochs=1, seed=seed) for seed in (0, 0, 1)]
    for run in runs:
        list(run)
    assert_same_run(runs[1], runs[0])
    assert not torch.equal(runs[2].step.model.head.weight, runs[0].step.model.head.weight)


def test_a_checkpoint_of_another_run_is_refused(trainer, tmp_path):
    list(trainer(epochs=1, checkpoint=tmp_path))
    for change in ({"lr": 0.5}, {"seed": 3}, {"fusion": FusionConfig()}, {"augment": AugmentConfig()}):
        with pytest.raises(ConfigError, match=r"last\.pt is of another run; remove it or choose another folder"):
            trainer(**({"epochs": 1, "checkpoint": tmp_path} | change))


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_checkpoint_is_told_and_the_run_starts_again(trainer, tmp_path, damage):
    list(trainer(epochs=1, checkpoint=tmp_path))
    file = tmp_path / CHECKPOINT
    content = file.read_bytes()
    file.write_bytes({"cut": content[: len(content) // 2], "noise": b"noise", "empty": b""}[damage])
    with pytest.warns(UserWarning, match=r"last\.pt cannot be read \(\w+\); the run starts again"):
        again = trainer(epochs=1, checkpoint=tmp_path)
    assert again.history == ()
    list(again)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(trainer(epochs=1, checkpoint=tmp_path).history) == 1


def test_a_checkpoint_appears_whole_or_not_at_all(trainer, tmp_path, monkeypatch):
    run = trainer(checkpoint=tmp_path)
    epochs = iter(run)
    next(epochs)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full_disk(source: Any, target: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        next(epochs)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_loss_that_is_not_finite_ends_the_run_without_a_checkpoint(trainer, tmp_path):
    run = trainer(lr=1e30, warmup_lr=1e30, checkpoint=tmp_path)
    with pytest.raises(NonFiniteLoss, match=r"the training loss is (nan|inf) in epoch 1 of 4"):
        list(run)
    assert run.history == ()
    assert not (tmp_path / CHECKPOINT).exists()


def test_what_cannot_be_trained_is_refused_before_any_work(trainer, small_backbone):
    with pytest.raises(ConfigError, match="num_classes: 7, and digits has 5 classes"):
        trainer(model=ModelConfig(backbone=small_backbone, image_size=8, num_classes=7))
    with pytest.raises(ConfigError, match="tf32 needs a CUDA device; choose float32 or bf16"):
        trainer(precision="tf32")
    for device in ("tpu", "meta", "mps"):
        with pytest.raises(ConfigError, match=f"'{device}' is not a device; choose from cpu, cuda"):
            trainer(device=device)
    with pytest.raises(ConfigError, match="start_layer: must be a layer from 1 to 4, not 5"):
        trainer(fusion=FusionConfig(strategy="upper", start_layer=5, r=2))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="sees no CUDA device"):
            trainer(device="cuda")


def test_a_batch_larger_than_the_set_is_the_set(trainer):
    large = trainer(batch_size=1000, epochs=1)
    assert (large.batch_size, large.steps_per_epoch) == (44, 1)
    list(large)
    assert large.result().throughput_img_per_s == pytest.approx(44 / (large.result().step_time_ms / 1e3))


def test_batches_are_whole_and_every_image_comes_up(trainer):
    seen: list[torch.Tensor] = []

    def note(batches: Any) -> Any:
        for batch in batches:
            seen.append(batch)
            yield batch

    run = trainer(epochs=6, progress=note)
    list(run)
    assert run.steps_per_epoch == 5  # 44 images, 8 at a time; 4 are left for another epoch
    assert [len(batch) for batch in seen] == [8] * 30
    epochs = [torch.cat(seen[5 * i : 5 * i + 5]) for i in range(6)]
    assert all(len(epoch.unique()) == 40 for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert len(torch.cat(epochs).unique()) == 44


def test_the_result_says_what_the_run_took(trainer):
    run = trainer()
    list(run)
    result = run.result()
    schedule = (0, 3, 0, 2)
    price = cost(run.model_config, schedule)
    assert result.parameters == price.parameters
    assert result.flops_per_image == price.flops_per_image
    assert result.tokens_per_image == 17 + 14 + 14 + 12
    assert result.train_time_s == pytest.approx(sum(epoch.train_time_s for epoch in run.history))
    # the first epoch warms up
    step_time_s = statistics.median(epoch.train_time_s for epoch in run.history[1:]) / 5
    assert result.step_time_ms == pytest.approx(1e3 * step_time_s)
    assert result.throughput_img_per_s == pytest.approx(8 / step_time_s)
    assert result.peak_memory_source == "cpu_tensor_bytes"
    assert result.device_name.endswith("(1 thread)")


def measured_peak(run: Trainer) -> int:
    next(iter(run))
    return run.peak_bytes


def test_peak_memory_is_one_number_and_covers_what_must_be_there(trainer):
    alone = measured_peak(trainer(epochs=1))
    big = measured_peak(trainer(epochs=1, batch_size=32))
    after_others = measured_peak(trainer(epochs=1))
    assert alone == after_others
    # weights, gradients, two moments, the moving average: 5 copies in float32; what 8 images keep for backward
    run = trainer(epochs=1)
    price = cost(run.model_config, run.step.model.schedule)
    images = 8 * 3 * 8 * 8
    bound = 5 * 4 * price.parameters + 8 * price.activation_bytes_per_image
    assert bound < alone < 2 * bound + 16 * images
    # four times the images need four times the activations
    assert big - alone == pytest.approx(24 * price.activation_bytes_per_image, rel=0.5)


def test_fusion_and_leaving_out_the_average_lower_the_peak(trainer):
    kept = measured_peak(trainer(epochs=1, batch_size=32, fusion=FusionConfig()))
    fused = measured_peak(trainer(epochs=1, batch_size=32, fusion=FusionConfig(strategy="all", r=3)))
    assert fused < 0.8 * kept
    without = trainer(epochs=1, batch_size=32, fusion=FusionConfig(), ema=False)
    # the average's weights and its count of updates
    assert measured_peak(without) == kept - 4 * sum(p.numel() for p in without.step.model.parameters()) - 8


def test_measuring_the_peak_leaves_the_run_as_it_was(trainer, monkeypatch):
    measured = trainer(epochs=1)
    list(measured)
    monkeypatch.setattr(Trainer, "_measure_peak", lambda self: self.peak_bytes)
    unmeasured = trainer(epochs=1)
    list(unmeasured)
    assert without_time(measured.history[0]) == without_time(unmeasured.history[0])
