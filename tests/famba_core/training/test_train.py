"""Trainer: its reports, refusals and measurements."""

import statistics
from typing import Any

import pytest
import torch
from trainers import assert_same_run, without_time

from famba_core import AugmentConfig, ConfigError, FusionConfig, ModelConfig
from famba_core.cli import main
from famba_core.cost.work import StepSettings, cost, step_cost
from famba_core.training.trainer import CHECKPOINT, NonFiniteLoss, Trainer


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


def test_runs_differ_by_the_seed_only(trainer):
    runs = [trainer(epochs=1, seed=seed) for seed in (0, 0, 1)]
    for run in runs:
        list(run)
    assert_same_run(runs[1], runs[0])
    assert not torch.equal(runs[2].step.model.head.weight, runs[0].step.model.head.weight)


def test_non_finite_loss_ends_the_run_without_a_checkpoint(trainer, tmp_path):
    run = trainer(lr=1e30, warmup_lr=1e30, checkpoint=tmp_path)
    with pytest.raises(NonFiniteLoss, match=r"the training loss is (nan|inf) in epoch 1 of 4"):
        list(run)
    assert run.history == ()
    assert not (tmp_path / CHECKPOINT).exists()


def test_run_that_cannot_be_trained_is_refused_before_any_work(trainer, small_backbone):
    with pytest.raises(ConfigError, match="num_classes: is 7, but digits has 5 classes"):
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
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ConfigError, match=r"default dtype: must be torch\.float32, not torch\.float64"):
            trainer()
    finally:
        torch.set_default_dtype(torch.float32)


def test_batch_is_at_most_the_training_set(trainer):
    large = trainer(batch_size=1000, epochs=1)
    assert (large.batch_size, large.steps_per_epoch) == (44, 1)
    list(large)
    assert large.result().throughput_img_per_s == pytest.approx(44 / (large.result().step_time_ms / 1e3))


def test_batches_are_full_and_every_image_is_used(trainer):
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


def test_result_contains_the_costs_of_the_run(trainer):
    run = trainer()
    list(run)
    result = run.result()
    schedule = (0, 3, 0, 2)
    price = cost(run.model_config, schedule)
    assert result.parameters == price.parameters
    assert result.flops_per_image == price.flops_per_image
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


def test_peak_memory_is_deterministic_and_near_the_cost_model(trainer):
    alone = measured_peak(trainer(epochs=1))
    big = measured_peak(trainer(epochs=1, batch_size=32))
    after_others = measured_peak(trainer(epochs=1))
    assert alone == after_others
    # weights, gradients, two moments, the moving average: 5 copies in float32; what 8 images keep for backward
    run = trainer(epochs=1)
    price = cost(run.model_config, run.schedule)
    assert alone > 5 * 4 * price.parameters + 8 * price.activation_bytes_per_image
    for peak, batch in ((alone, 8), (big, 32)):
        assert peak == pytest.approx(
            step_cost(run.model_config, run.schedule, StepSettings(batch=batch)).peak_bytes, rel=0.15
        )


def test_recompute_lowers_the_peak_and_changes_no_result(trainer):
    kept, recomputed = (trainer(epochs=1, batch_size=32, recompute=recompute) for recompute in (False, True))
    assert measured_peak(recomputed) < 0.95 * measured_peak(kept)
    assert recomputed.history[0].loss == pytest.approx(kept.history[0].loss, rel=1e-6)
    for name, value in kept.step.model.state_dict().items():
        torch.testing.assert_close(recomputed.step.model.state_dict()[name], value, msg=name)


def test_named_backend_is_used_by_the_model(trainer):
    fast, plain = trainer(epochs=1), trainer(epochs=1, backend="torch")
    assert {block.backend for block in plain.step.model.blocks} == {"torch"}
    assert next(iter(plain)).loss == pytest.approx(next(iter(fast)).loss, rel=1e-4)


# one does not exist, the other is for CUDA devices
@pytest.mark.parametrize(("backend", "sentence"), [
    ("numpy", "backend: 'numpy' is not a scan backend; choose from auto, "),
    ("mamba_ssm", "backend: the mamba_ssm backend does not fit: "),
])  # fmt: skip
def test_backend_that_cannot_run_here_is_refused(backend, sentence, small_backbone, capsys):
    command = ["--dataset", "digits", "--train-images", "40", "--backbone", "small", "--device", "cpu"]
    assert main([*command, "--backend", backend]) == 2
    assert capsys.readouterr().err.startswith(f"famba-train: {sentence}")


def test_fusion_and_no_moving_average_lower_the_peak(trainer):
    kept = measured_peak(trainer(epochs=1, batch_size=32, fusion=FusionConfig()))
    fused = measured_peak(trainer(epochs=1, batch_size=32, fusion=FusionConfig(strategy="all", r=3)))
    assert fused < 0.8 * kept
    without = trainer(epochs=1, batch_size=32, fusion=FusionConfig(), ema=False)
    assert measured_peak(without) == kept - 4 * sum(p.numel() for p in without.step.model.parameters())


def test_measuring_the_peak_does_not_change_the_run(trainer, monkeypatch):
    measured = trainer(epochs=1)
    list(measured)
    monkeypatch.setattr(Trainer, "_measure_peak", lambda self: self.peak_bytes)
    unmeasured = trainer(epochs=1)
    list(unmeasured)
    assert without_time(measured.history[0]) == without_time(unmeasured.history[0])
