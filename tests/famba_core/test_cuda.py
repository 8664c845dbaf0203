"""What only a GPU can show. Skipped, and said so, on a machine without one."""

from typing import Any

import pytest
import torch

from famba_core import AugmentConfig, DataConfig, FusionConfig, ModelConfig, TrainConfig
from famba_core.models.vim import build_model
from famba_core.scan import reference, torch_scan
from famba_core.train import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

FUSION = FusionConfig(strategy="upper", start_layer=6, r=2)


def trainer(**changes: Any) -> Trainer:
    arguments: dict[str, Any] = {
        "model": ModelConfig(backbone="vim_nano", image_size=8, patch_size=1, num_classes=10),
        "fusion": FUSION,
        "data": DataConfig(dataset="digits", train_images=128),
        "augment": AugmentConfig(),
        "train": TrainConfig(epochs=2, batch_size=64, warmup_epochs=1),
        "device": "cuda",
    }
    return Trainer(**{**arguments, **changes})


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_an_epoch_in_every_precision(precision: str) -> None:
    run = trainer(train=TrainConfig(epochs=1, batch_size=64, warmup_epochs=1, precision=precision))
    (metrics,) = run
    assert 0 < metrics.loss < 10
    result = run.result()
    assert result.peak_memory_source == "cuda_allocator"
    assert result.peak_memory_mib > 1
    assert result.device_name == torch.cuda.get_device_name()


def test_logits_are_those_of_the_cpu() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(backbone="vim_nano", image_size=32), FUSION).eval()
    images = torch.randn(4, 3, 32, 32)
    torch.backends.cudnn.allow_tf32 = False
    with torch.no_grad():
        expected = model(images)
        found = model.cuda()(images.cuda()).cpu()
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-3)


def test_the_scan_is_the_twins() -> None:
    torch.manual_seed(0)
    B, L, G, E, N = 2, 37, 2, 24, 4
    shapes = ((B, L, G, E), (B, L, G, E), (G, E, N), (B, L, G, N), (B, L, G, N), (G, E), (G, E))
    cpu = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    cpu[2] = -cpu[2].abs()
    gpu = [x.cuda().float().requires_grad_() for x in cpu]
    cpu = [x.requires_grad_() for x in cpu]
    expected = reference.selective_scan(*cpu, reverse=(False, True))
    found = torch_scan.selective_scan(*gpu, reverse=(False, True))
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-4, atol=1e-4)
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), gpu), torch.autograd.grad(expected.square().sum(), cpu), strict=True
    ):
        torch.testing.assert_close(a.cpu().double(), b, rtol=1e-3, atol=1e-3 * b.abs().max().item())


def test_a_step_never_waits_for_the_device() -> None:
    run = trainer()
    images, labels = run.train_split.images[:64], run.train_split.labels[:64]
    generator = torch.Generator("cuda").manual_seed(0)
    run.step(images, labels, 1e-3, generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.step(images, labels, 1e-3, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_resumed_run_continues(tmp_path: Any) -> None:
    next(iter(trainer(checkpoint=tmp_path)))
    resumed = trainer(checkpoint=tmp_path)
    assert len(resumed.history) == 1
    assert len(list(resumed)) == 1
