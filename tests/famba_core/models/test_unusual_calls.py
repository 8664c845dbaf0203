"""What a model answers to other dtypes, devices, shapes, derivatives and recorders: right, or one sentence."""

import io
from typing import Any

import pytest
import torch
from backends import FAST
from reference_weights import reference_images, reference_weights
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from famba_core import ConfigError, FusionConfig, ModelConfig, build_model
from famba_core.models.classifier import Classifier
from famba_core.ops.interface import causal_conv_silu

BACKENDS = [*FAST, "reference"]
FUSED = FusionConfig(strategy="all", r=2)


def small(backbone: str, backend: str = "auto", fusion: FusionConfig = FUSED) -> Classifier:
    model = build_model(ModelConfig(backbone=backbone, image_size=8, num_classes=5), fusion, backend)
    model.load_state_dict(reference_weights(model.state_dict()))
    return model


def images(batch: int = 2) -> Tensor:
    return reference_images(batch, size=8)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_model_in_float64_computes_in_float64(backend, small_backbone):
    found = small(small_backbone, backend).double()(images().double())
    expected = small(small_backbone, "reference").double()(images().double())
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(small(small_backbone)(images()).double(), expected, rtol=1e-4, atol=1e-4)


def part_in_float64(model: Classifier) -> None:
    model.blocks[1].mixer.x_proj.double()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("change", "found"), [
    (lambda model: model.half(), "torch.float16"), (lambda model: model.bfloat16(), "torch.bfloat16"),
    (lambda model: model.head.double(), "torch.float32 and torch.float64"),
    (part_in_float64, "torch.float32 and torch.float64"),
])  # fmt: skip
def test_weights_in_other_dtypes_are_refused(change, found, backend, small_backbone):
    model = small(small_backbone, backend)
    change(model)
    with pytest.raises(ConfigError) as refused:
        model(images().to(model.pos_embed.dtype))
    assert str(refused.value) == (
        f"weights: must all be torch.float32, or all torch.float64, not {found}; "
        "call model.float(), and compute under torch.autocast for bfloat16"
    )


@pytest.mark.parametrize(("wrong", "sentence"), [
    (images().double(), r"must be torch\.float32, as the weights are, not torch\.float64"),
    (images().byte(), r"must be torch\.float32, as the weights are, not torch\.uint8"),
    (images()[0], r"must be \[B, 3, 8, 8\], not \[3, 8, 8\]"),
    (images()[:, :1], r"must be \[B, 3, 8, 8\], not \[2, 1, 8, 8\]"),
    (images()[..., 4:], r"must be \[B, 3, 8, 8\], not \[2, 3, 8, 4\]"),
    (images().to("meta"), "must be on cpu, where the model is, not on meta"),
])  # fmt: skip
def test_images_that_do_not_fit_are_refused(wrong, sentence, small_backbone):
    model = small(small_backbone)
    with pytest.raises(ConfigError, match=f"images: {sentence}"):
        model(wrong)
    if wrong.dtype == torch.float64:
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConfigError, match="images: "):
            model(wrong)


def test_half_precision_images_are_taken_under_autocast(small_backbone):
    with torch.autocast("cpu", torch.bfloat16):
        assert small(small_backbone)(images().bfloat16()).isfinite().all()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch_has_no_logits_and_gradients_of_zero(backend, recompute, small_backbone):
    model = small(small_backbone, backend)
    model.recompute = recompute
    logits = model(images()[:0])
    assert logits.shape == (0, 5)
    logits.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_model_on_the_meta_device_gives_shapes(small_backbone):
    with torch.device("meta"):
        model = build_model(ModelConfig(backbone=small_backbone, image_size=8, num_classes=5))
    logits = model(images().to("meta"))
    assert logits.is_meta
    assert logits.shape == (len(images()), 5)


def test_fake_tensors_have_the_right_shapes(small_backbone):
    model = small(small_backbone)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model(mode.from_tensor(images())).shape == (2, 5)


@pytest.mark.parametrize("backend", FAST)
def test_second_derivatives_are_refused(backend, small_backbone):
    model = small(small_backbone, backend)
    loss = model(images()).square().sum()
    with pytest.raises(ConfigError, match="create_graph: second derivatives need backend='reference'"):
        torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    x = torch.randn(1, 5, 6, requires_grad=True)
    u = causal_conv_silu(x, torch.ones(2, 6, 4), torch.ones(2, 6), reverse=(False, True), backend="cpu")
    with pytest.raises(ConfigError, match="create_graph"):
        torch.autograd.grad(u.sum(), x, create_graph=True)


def test_second_derivatives_of_the_reference_equal_finite_differences(small_backbone):
    model = small(small_backbone, "reference").double()
    inputs, weight, step = images(1).double(), model.blocks[0].mixer.in_proj.weight, 1e-5

    def gradient(create_graph: bool = False) -> Tensor:
        (found,) = torch.autograd.grad(model(inputs).square().sum(), weight, create_graph=create_graph)
        return found

    (second,) = torch.autograd.grad(gradient(create_graph=True).sum(), weight)
    above, below = (gradient_at(weight, shift, gradient) for shift in (step, -step))
    assert second[0, 0].item() == pytest.approx((above - below).item() / (2 * step), rel=1e-4)


def gradient_at(weight: nn.Parameter, shift: float, gradient: Any) -> Tensor:
    """Return the sum of the gradient with the weight's first element shifted."""
    weight.data[0, 0] += shift
    found: Tensor = gradient().sum()
    weight.data[0, 0] -= shift
    return found


@pytest.mark.parametrize("backend", FAST)
def test_norm_weight_with_strides_gives_the_same_bits(backend, small_backbone):
    model = small(small_backbone, backend)
    expected = model(images())
    for block in model.blocks:
        block.norm.weight = nn.Parameter(torch.stack((block.norm.weight.data, torch.ones(16)), 1)[:, 0])
        assert not block.norm.weight.is_contiguous()
    found = model(images())
    assert torch.equal(found, expected)
    found.sum().backward()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["auto", *FAST])
def test_recorders_are_told_which_backend_they_can_record(backend, small_backbone):
    model = small(small_backbone, backend)
    sentence = f"torch.jit.trace and torch.export cannot record '{backend}'; choose reference"
    with pytest.raises(ConfigError, match=sentence):
        torch.jit.trace(model, images())
    with pytest.raises(ConfigError, match=sentence):
        torch.export.export(model, (images(),))
    assert model(images()).isfinite().all(), "afterwards everything works as before"


@pytest.mark.filterwarnings("ignore")  # torch warns of every size that it records as a constant
@pytest.mark.parametrize("fusion", [FusionConfig(), FusionConfig(strategy="all", r=1)], ids=["plain", "fused"])
def test_reference_backend_can_be_traced_and_stored(fusion, small_backbone):
    config, inputs, file = ModelConfig(backbone=small_backbone, image_size=4), reference_images(size=4), io.BytesIO()
    model = build_model(config, fusion, "reference")
    torch.jit.save(torch.jit.trace(model, inputs, check_trace=False), file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(inputs), model(inputs))
