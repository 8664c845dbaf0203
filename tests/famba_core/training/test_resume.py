"""Resume: interrupted and killed runs, and checkpoints that are damaged or belong to another run."""

import errno
import io
import os
import resource
import signal
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from trainers import FUSION, TRAIN, assert_same_run

from famba_core import AugmentConfig, ConfigError, DataConfig, FusionConfig, FusionSchedule, ModelConfig, TrainConfig
from famba_core.training.trainer import CHECKPOINT, Trainer, run_identity


@pytest.mark.parametrize("changes", [{}, {"ema": False}, {"precision": "bf16"}], ids=["ema", "no ema", "bf16"])
@pytest.mark.parametrize("stop_after", [1, 3])
def test_interrupted_run_resumes_bit_for_bit(trainer, tmp_path, stop_after, changes):
    whole = trainer(**changes)
    list(whole)

    first = trainer(checkpoint=tmp_path / "run", **changes)
    for epoch in first:
        if epoch.epoch == stop_after:
            break
    torch.manual_seed(99)  # nothing may depend on the global generator
    torch.rand(17)
    second = trainer(checkpoint=tmp_path / "run", **changes)
    assert len(second.history) == stop_after
    list(second)
    assert_same_run(second, whole)
    assert second.result().train_time_s == pytest.approx(sum(epoch.train_time_s for epoch in second.history))


def test_interruption_inside_an_epoch_loses_only_that_epoch(trainer, tmp_path):
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
from famba_core.backbones import Backbone, register_backbone
from famba_core.training.trainer import Trainer

register_backbone("small", Backbone(width=16, depth=4, state_size=4, patch_size=2))

def stall(batches):
    for i, batch in enumerate(batches):
        if len(trainer.history) == 2 and i == 1:
            print("in the middle of epoch 3", flush=True)
            time.sleep(600)
        yield batch

trainer = Trainer(
    model=ModelConfig(backbone="small", image_size=8, num_classes=10), fusion=FusionSchedule(schedule=(0, 3, 0, 2)),
    data=DataConfig(dataset="digits", train_images=48), augment=AugmentConfig(eval_crop=1.0),
    train=TrainConfig(epochs=4, batch_size=8, lr=3e-3, warmup_epochs=1), threads=1, device="cpu",
    checkpoint=Path(sys.argv[1]), progress=stall,
)
list(trainer)
"""


def test_killed_run_resumes_bit_for_bit(small_backbone, tmp_path):
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


def test_identity_equals_that_of_stored_checkpoints():
    """This text is in the checkpoints of version 0.1.0, which must still resume."""
    found = run_identity(
        ModelConfig(backbone="vim_nano", image_size=32, num_classes=10),
        FusionSchedule(schedule=(0,) * 22 + (3, 1), order="raster"),
        DataConfig(dataset="digits", data_dir="/data", train_images=40),
        AugmentConfig(eval_crop=1.0),
        TrainConfig(epochs=2, seed=5),
    )
    assert found == (
        "(1, "
        "ModelConfig(backbone='vim_nano', image_size=32, patch_size=None, num_classes=10, cls_position='head'), "
        "FusionConfig(strategy='none', start_layer=None, stop_layer=None, r=None, "
        "order='raster', weighting='mean', "
        "schedule=(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 1)), "
        "'digits', 40, "
        "AugmentConfig(crop_scale_min=0.08, flip=True, random_erasing=0.25, mixup=0.8, cutmix=1.0, "
        "eval_crop=1.0), "
        "TrainConfig(epochs=2, batch_size=128, lr=0.001, "
        "min_lr=1e-05, warmup_epochs=5, warmup_lr=1e-06, weight_decay=0.1, label_smoothing=0.1, "
        "ema=True, ema_decay=None, precision='float32', seed=5, recompute=False))"
    )


def test_a_part_of_the_test_images_makes_another_run():
    identities = {
        run_identity(
            ModelConfig(),
            FusionSchedule(schedule=(0,) * 24),
            DataConfig(test_images=size),
            AugmentConfig(),
            TrainConfig(),
        )
        for size in (None, 5, 6)
    }
    assert len(identities) == 3


def test_checkpoint_of_another_run_is_refused(trainer, tmp_path):
    list(trainer(epochs=1, checkpoint=tmp_path))
    for change in ({"lr": 0.5}, {"seed": 3}, {"fusion": FusionConfig()}, {"augment": AugmentConfig()}):
        with pytest.raises(ConfigError, match=r"last\.pt belongs to another run; remove it or choose another folder"):
            trainer(**({"epochs": 1, "checkpoint": tmp_path} | change))


def flipped(content):
    """Return the content with one bit of a tensor flipped."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        tensor = max(archive.infolist(), key=lambda entry: entry.file_size)
        place = content.index(archive.read(tensor)) + tensor.file_size // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "flipped"])
def test_damaged_checkpoint_warns_and_the_run_starts_again(trainer, tmp_path, damage):
    list(trainer(epochs=1, checkpoint=tmp_path))
    file = tmp_path / CHECKPOINT
    content = file.read_bytes()
    half = content[: len(content) // 2]
    file.write_bytes({"cut": half, "noise": b"noise", "empty": b"", "flipped": flipped(content)}[damage])
    with pytest.warns(UserWarning, match=r"last\.damaged cannot be read \(\w+\); the run starts again"):
        again = trainer(epochs=1, checkpoint=tmp_path)
    assert again.history == ()
    list(again)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(trainer(epochs=1, checkpoint=tmp_path).history) == 1


def test_failed_write_leaves_the_previous_checkpoint(trainer, tmp_path, monkeypatch):
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


def test_full_disk_raises_os_error_and_leaves_the_previous_checkpoint(trainer, tmp_path):
    """A limit on file sizes stands for a full disk. torch itself would raise a RuntimeError without an errno."""
    epochs = iter(trainer(checkpoint=tmp_path))
    next(epochs)
    before = (tmp_path / CHECKPOINT).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            next(epochs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT]
