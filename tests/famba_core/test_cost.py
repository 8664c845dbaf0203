"""The analytic cost against what torch counts."""

from collections.abc import Callable

import pytest
import torch
from backends import FAST, needs_kernels
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from famba_core import FusionConfig, ModelConfig, build_model
from famba_core.cost import CONV_WIDTH, SCAN_FLOPS_PER_STATE, cost
from famba_core.scan import cpu

SCHEDULES = {
    "none": FusionConfig(),
    "upper": FusionConfig(strategy="upper", start_layer=6, r=2),
    "lower": FusionConfig(strategy="lower", stop_layer=19, r=2),
}


@pytest.mark.parametrize("config", [
    ModelConfig(num_classes=1000),
    ModelConfig(backbone="vim_small", image_size=96, patch_size=8),
    ModelConfig(backbone="vim_nano", image_size=8, patch_size=1, num_classes=10),
    ModelConfig(backbone="vim_nano_small", image_size=32, cls_position="middle"),
])  # fmt: skip
def test_parameters_are_the_models(config):
    with torch.device("meta"):
        model = build_model(config)
    assert cost(config, model.schedule).parameters == sum(p.numel() for p in model.parameters())


@needs_kernels
@pytest.mark.parametrize("fusion", SCHEDULES)
def test_flops_are_torchs_and_the_kernels(fusion):
    config = ModelConfig(backbone="vim_nano_small", image_size=32)
    model = build_model(config, SCHEDULES[fusion])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    sizes = config.sizes
    tokens, length = 0, config.num_tokens
    for r in model.schedule:
        length -= r
        tokens += length
    # the kernels are unknown to torch's counter; per token and direction they convolve and scan 2 D channels
    kernels = tokens * 2 * (2 * sizes.width) * (2 * CONV_WIDTH + SCAN_FLOPS_PER_STATE * sizes.state_size)
    assert cost(config, model.schedule).flops_per_image == counter.get_total_flops() + kernels


def kept_for_backward(model: nn.Module, batch: int) -> int:
    """Bytes of the storages that a forward pass saves, its parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(torch.randn(batch, 3, 32, 32))
    assert output.requires_grad
    return sum(t.untyped_storage().nbytes() for address, t in saved.items() if address not in own)


def per_image(measure: Callable[[int], int]) -> float:
    """What each further image adds, so that what a model keeps but once is left out."""
    return (measure(3) - measure(1)) / 2


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("fusion", SCHEDULES)
@pytest.mark.parametrize("backbone", ["vim_nano", "vim_nano_small"])
def test_activation_bytes_are_those_that_autograd_keeps(backbone, fusion, backend, monkeypatch):
    config = ModelConfig(backbone=backbone, image_size=32)
    model = build_model(config, SCHEDULES[fusion])
    predicted = cost(config, model.schedule).activation_bytes_per_image
    if backend == "torch":
        monkeypatch.setattr(cpu, "why_not", lambda *tensors, **sizes: "not in this test")
        tokens = sum(config.num_tokens - sum(model.schedule[: i + 1]) for i in range(len(model.schedule)))
        predicted += 4 * tokens * 4 * 2 * config.sizes.width
    measured = per_image(lambda batch: kept_for_backward(model, batch))
    assert predicted == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("fusion", ["upper", "lower"])
@pytest.mark.parametrize("backend", FAST)
def test_the_saving_by_fusion_is_predicted_on_every_backend(backend, fusion, monkeypatch):
    if backend == "torch":
        monkeypatch.setattr(cpu, "why_not", lambda *tensors, **sizes: "not in this test")
    config = ModelConfig(backbone="vim_nano_small", image_size=32)
    fused, plain = build_model(config, SCHEDULES[fusion]), build_model(config)
    predicted = [cost(config, model.schedule).activation_bytes_per_image for model in (fused, plain)]
    measured = [per_image(lambda batch, m=model: kept_for_backward(m, batch)) for model in (fused, plain)]
    assert predicted[0] / predicted[1] == pytest.approx(measured[0] / measured[1], rel=0.05)
