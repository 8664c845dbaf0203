"""A training run of about a second, and the comparison of two runs."""

from dataclasses import asdict, fields, replace
from typing import Any

import torch

from famba_core import AugmentConfig, DataConfig, FusionSchedule, ModelConfig, TrainConfig
from famba_core.data.image_dataset import ImageDataset, Split
from famba_core.training.metrics import EpochMetrics
from famba_core.training.trainer import Trainer

FUSION = FusionSchedule(schedule=(0, 3, 0, 2))
TRAIN = TrainConfig(epochs=4, batch_size=8, lr=3e-3, warmup_epochs=1)


def made_split(count: int, seed: int) -> Split:
    """Return images of five classes that differ in brightness, with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 5
    noise = torch.randint(0, 60, (count, 3, 8, 8), generator=generator)
    return Split(images=(labels[:, None, None, None] * 45 + noise).to(torch.uint8), labels=labels)


def made_dataset() -> ImageDataset:
    return ImageDataset(
        train=made_split(44, 0), test=made_split(25, 1), num_classes=5, mean=(0.5,) * 3, std=(0.25,) * 3
    )


def new_trainer(**changes: Any) -> Trainer:
    """Return a Trainer of the backbone "small". Keywords replace fields of TRAIN or arguments of the Trainer."""
    recipe = {field.name: changes.pop(field.name) for field in fields(TrainConfig) if field.name in changes}
    return Trainer(**{
        "model": ModelConfig(backbone="small", image_size=8, num_classes=5),
        "fusion": FUSION,
        "data": DataConfig(dataset="digits"),
        "augment": AugmentConfig(eval_crop=1.0),
        "train": replace(TRAIN, **recipe),
        "threads": 1,
        "device": "cpu",
    } | changes)  # fmt: skip


def assert_same_run(found: Trainer, expected: Trainer) -> None:
    """Assert that two runs are equal bit for bit, except for times."""
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
