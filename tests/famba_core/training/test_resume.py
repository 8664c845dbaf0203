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

from famba_core import AugmentConfig, ConfigError, DataConfig, FusionConfig, ModelConfig
from famba_core.training.trainer import CHECKPOINT, Trainer


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


IDENTITY = (
    "(1, ModelConfig(backbone='small', image_size=8, patch_size=None, num_classes=5, cls_position='head'), "
    "FusionConfig({fusion}), 'digits', {images}, "
    "AugmentConfig(crop_scale_min=0.08, flip=True, random_erasing=0.25, mixup=0.8, cutmix=1.0, eval_crop=1.0), "
    "TrainConfig(epochs=4, batch_size=8, lr=0.003, min_lr=1e-05, warmup_epochs=1, warmup_lr=1e-06, weight_decay=0.1, "
    "label_smoothing=0.1, ema=True, ema_decay=None, precision='float32', seed=0, recompute=False))"
)
LABELS = "strategy='lower', start_layer=None, stop_layer=2, r=3, order='concat', weighting='mean'"
SCHEDULE = (
    "strategy='none', start_layer=None, stop_layer=None, r=None, order='concat', weighting='mean', "
    "schedule=(3, 3, 0, 0)"
)


@pytest.mark.parametrize(("fusion", "images"), [
    (f"{LABELS}, schedule=None", "None"), (LABELS, "None"), (SCHEDULE, "None"), (SCHEDULE, "None, 9"),
])  # fmt: skip
def test_checkpoint_with_its_settings_in_one_text_resumes(fusion, images, trainer, tmp_path):
    """Version 0.1.0 stored the repr of its configurations: famba-train's with labels, a sweep's with the schedule."""
    lower = FusionConfig(strategy="lower", stop_layer=2, r=3)
    data = DataConfig(dataset="digits", test_images=9 if "9" in images else None)
    next(iter(trainer(fusion=lower, data=data, checkpoint=tmp_path)))
    stored = torch.load(tmp_path / CHECKPOINT)
    del stored["settings"]
    stored["identity"] = IDENTITY.format(fusion=fusion, images=images)
    torch.save(stored, tmp_path / CHECKPOINT)
    assert len(trainer(fusion=lower, data=data, checkpoint=tmp_path).history) == 1
    with pytest.raises(ConfigError, match=r"another run, with lr 0\.003 \(now 0\.5\), seed 0 \(now 1\); remove it or"):
        trainer(fusion=lower, data=data, lr=0.5, seed=1, checkpoint=tmp_path)
    list(trainer(fusion=lower, data=data, checkpoint=tmp_path))
    assert "identity" not in torch.load(tmp_path / CHECKPOINT)


@pytest.mark.parametrize(("change", "difference"), [
    ({"epochs": 2}, r"epochs 1 \(now 2\)"),
    ({"lr": 0.5, "seed": 3}, r"lr 0\.003 \(now 0\.5\), seed 0 \(now 3\)"),
    ({"fusion": FusionConfig()}, r"schedule \(0, 3, 0, 2\) \(now \(0, 0, 0, 0\)\)"),
    ({"augment": AugmentConfig()}, r"eval_crop 1\.0 \(now 0\.875\)"),
    ({"data": DataConfig(dataset="digits", test_images=9)}, r"test_images None \(now 9\)"),
])  # fmt: skip
def test_checkpoint_of_another_run_is_refused_by_the_settings_that_differ(change, difference, trainer, tmp_path):
    list(trainer(epochs=1, checkpoint=tmp_path))
    with pytest.raises(
        ConfigError, match=rf"last\.pt belongs to another run, with {difference}; remove it or choose another folder$"
    ):
        trainer(**({"epochs": 1, "checkpoint": tmp_path} | change))
    trainer(epochs=1, checkpoint=tmp_path, data=DataConfig(dataset="digits", data_dir="/elsewhere"))


def test_setting_that_a_checkpoint_lacks_had_its_default(trainer, tmp_path):
    list(trainer(epochs=1, checkpoint=tmp_path))
    stored = torch.load(tmp_path / CHECKPOINT)
    del stored["settings"]["recompute"]
    torch.save(stored, tmp_path / CHECKPOINT)
    trainer(epochs=1, checkpoint=tmp_path)
    with pytest.raises(ConfigError, match=r"with recompute False \(now True\)"):
        trainer(epochs=1, recompute=True, checkpoint=tmp_path)


@pytest.mark.parametrize("content", [
    3, {}, {"identity": 3}, {"identity": "("}, {"identity": "(1, 2)"}, {"identity": "__import__('os')"},
    {"identity": "(1, ModelConfig(backbone='gone'), FusionConfig(), 'digits', None, AugmentConfig(), TrainConfig())"},
])  # fmt: skip
def test_checkpoint_without_readable_settings_is_refused(content, trainer, tmp_path):
    torch.save(content, tmp_path / CHECKPOINT)
    with pytest.raises(ConfigError, match=r"last\.pt belongs to another run; remove it or choose another folder"):
        trainer(checkpoint=tmp_path)


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
