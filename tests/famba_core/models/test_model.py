"""Vision Mamba: parameter names and counts, initialisation, logits and gradients against a float64 twin."""

from collections.abc import Iterator

import pytest
import torch
from backends import FAST
from reference_weights import reference_images, reference_weights
from vim_twin import vim_logits

from famba_core import ConfigError, FusionConfig, FusionSchedule, ModelConfig, build_model

# The official layout of Vim-Ti with 1000 classes: 197 tokens, D = 192, E = 384, N = 16, R = 12.
OUTSIDE = {
    "cls_token": (1, 1, 192),
    "pos_embed": (1, 197, 192),
    "patch_embed.proj.weight": (192, 3, 16, 16),
    "patch_embed.proj.bias": (192,),
    "head.weight": (1000, 192),
    "head.bias": (1000,),
    "norm_f.weight": (192,),
}
ONE_LAYER = {
    "mixer.A_log": (384, 16),
    "mixer.D": (384,),
    "mixer.A_b_log": (384, 16),
    "mixer.D_b": (384,),
    "mixer.in_proj.weight": (768, 192),
    "mixer.conv1d.weight": (384, 1, 4),
    "mixer.conv1d.bias": (384,),
    "mixer.x_proj.weight": (44, 384),
    "mixer.dt_proj.weight": (384, 12),
    "mixer.dt_proj.bias": (384,),
    "mixer.conv1d_b.weight": (384, 1, 4),
    "mixer.conv1d_b.bias": (384,),
    "mixer.x_proj_b.weight": (44, 384),
    "mixer.dt_proj_b.weight": (384, 12),
    "mixer.dt_proj_b.bias": (384,),
    "mixer.out_proj.weight": (192, 384),
    "norm.weight": (192,),
}


def test_state_dict_has_the_official_layout():
    model = build_model(ModelConfig(backbone="vim_tiny", num_classes=1000, cls_position="middle"))
    layers = {f"layers.{i}.{name}": shape for i in range(24) for name, shape in ONE_LAYER.items()}
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == OUTSIDE | layers


@pytest.mark.parametrize(("backbone", "num_classes", "parameters"), [
    ("vim_tiny", 1000, 7_148_008), ("vim_tiny", 100, 6_974_308), ("vim_small", 1000, 25_796_584),
    ("vim_base", 1000, 97_598_440)])  # fmt: skip
def test_parameter_counts_equal_the_published_ones(backbone, num_classes, parameters):
    with torch.device("meta"):
        model = build_model(ModelConfig(backbone=backbone, num_classes=num_classes))
    assert sum(p.numel() for p in model.parameters()) == parameters


FUSIONS = {
    "none": FusionConfig(),
    "all": FusionConfig(strategy="all", r=2),
    "interleaved": FusionConfig(strategy="interleaved", r=3),
    "lower": FusionConfig(strategy="lower", stop_layer=2, r=2),
    "upper": FusionConfig(strategy="upper", start_layer=3, r=3),
    "explicit": FusionSchedule(schedule=(1, 0, 4, 2)),
    "as much as it can": FusionConfig(strategy="all", r=99),
}


def assert_agrees_with_twin(config: ModelConfig, fusion: FusionConfig, backend: str = "auto") -> None:
    """Check logits and every gradient, in float32, to 1e-4 of the twin's scale."""
    model = build_model(config, fusion, backend)
    model.load_state_dict(reference_weights(model.state_dict()))
    images = reference_images(batch=2, size=config.image_size)
    pull = torch.linspace(-1, 1, 2 * config.num_classes).reshape(2, -1)
    logits = model(images)
    (logits * pull).sum().backward()

    state = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
    expected = vim_logits(
        state,
        images.double(),
        patch=config.patch,
        class_at=config.num_patches // 2 if config.cls_position == "middle" else 0,
        schedule=model.fusion.schedule,
        order=fusion.order,
        weighting=fusion.weighting,
    )
    (expected * pull).sum().backward()
    _assert_near(logits, expected)
    for name, parameter in model.named_parameters():
        _assert_near(parameter.grad, state[name].grad, name)


def _assert_near(found: torch.Tensor, expected: torch.Tensor, name: str = "logits") -> None:
    error = (found.double() - expected).abs().max().item()
    assert error <= 1e-4 * max(expected.abs().max().item(), 1e-3), f"{name} is off by {error}"


@pytest.mark.parametrize("image_size", [6, 8], ids=["10 tokens", "17 tokens"])
@pytest.mark.parametrize("cls_position", ["head", "middle"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_strategy_agrees_with_the_twin(fusion, cls_position, image_size, small_backbone):
    config = ModelConfig(backbone=small_backbone, image_size=image_size, num_classes=5, cls_position=cls_position)
    assert_agrees_with_twin(config, FUSIONS[fusion])


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("cls_position", ["head", "middle"])
@pytest.mark.parametrize("weighting", ["mean", "size"])
@pytest.mark.parametrize("order", ["concat", "raster"])
def test_every_order_and_weighting_agrees_with_the_twin(order, weighting, cls_position, backend, small_backbone):
    config = ModelConfig(backbone=small_backbone, image_size=8, num_classes=5, cls_position=cls_position)
    assert_agrees_with_twin(config, FusionSchedule(schedule=(2, 3, 2, 1), order=order, weighting=weighting), backend)


@pytest.mark.parametrize("cls_position", ["head", "middle"])
def test_logits_do_not_depend_on_the_order_of_the_batch(cls_position, small_backbone):
    config = ModelConfig(backbone=small_backbone, image_size=8, num_classes=5, cls_position=cls_position)
    model = build_model(config, FusionConfig(strategy="all", r=2, order="raster"))
    images = reference_images(batch=5, size=8)
    turn = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(model(images[turn]), model(images)[turn])


def test_zero_schedule_gives_the_logits_of_no_fusion(small_backbone):
    config = ModelConfig(backbone=small_backbone, image_size=8)
    plain, zero = build_model(config), build_model(config, FusionSchedule(schedule=(0, 0, 0, 0), order="raster"))
    zero.load_state_dict(plain.state_dict())
    images = reference_images(size=8)
    assert torch.equal(plain(images), zero(images))


def test_autocast_to_bfloat16_stays_near_float32(small_backbone):
    config = ModelConfig(backbone=small_backbone, image_size=8, num_classes=5)
    model = build_model(config)  # fusion would magnify the rounding, for another pair may then be the most similar
    model.load_state_dict(reference_weights(model.state_dict()))
    images = reference_images(size=8)
    expected = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(images)
    assert not torch.equal(found.float(), expected), "bfloat16 was not used"
    torch.testing.assert_close(found.float(), expected, atol=0.05 * expected.abs().max().item(), rtol=0)


def test_initialisation_follows_the_published_recipe():
    torch.manual_seed(0)
    model = build_model(ModelConfig(backbone="vim_tiny", num_classes=100))
    mixer = model.layers[7].mixer
    states = torch.arange(1.0, 17.0)
    for A_log, D, dt_proj in (
        (mixer.A_log, mixer.D, mixer.dt_proj),
        (mixer.A_b_log, mixer.D_b, mixer.dt_proj_b),
    ):
        torch.testing.assert_close(A_log.exp(), states.expand(384, 16))
        assert torch.equal(D, torch.ones(384))
        step = torch.nn.functional.softplus(dt_proj.bias)
        assert 0.00099 < step.min() < 0.002
        assert 0.05 < step.max() < 0.101
        # log-uniform: as many steps below the geometric mean as above it
        assert 0.4 < (step < 0.01).float().mean() < 0.6
        assert dt_proj.weight.abs().max() <= 12**-0.5
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.2)
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.patch_embed.proj.weight.var().item() == pytest.approx(1 / 768, rel=0.05)
    # uniform in +-1 / sqrt(fan in), the output projection narrower by the square root of the depth
    assert mixer.in_proj.weight.abs().max().item() == pytest.approx(192**-0.5, rel=0.01)
    assert mixer.out_proj.weight.abs().max().item() == pytest.approx((384 * 24) ** -0.5, rel=0.01)


def test_wrong_model_values_are_reported_together():
    with pytest.raises(ConfigError) as refused:
        ModelConfig(backbone="vim_huge", image_size=0, num_classes=0, cls_position="tail")  # type: ignore[arg-type]
    assert [problem.key for problem in refused.value.problems] == [
        "backbone",
        "image_size",
        "num_classes",
        "cls_position",
    ]
    with pytest.raises(ConfigError, match="225 pixels do not divide into patches of 16"):
        ModelConfig(image_size=225)
    with pytest.raises(ConfigError, match="has 3 numbers, but the model has 24 layers"):
        build_model(ModelConfig(), FusionSchedule(schedule=(1, 2, 3)))


@pytest.fixture
def default_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def logits_and_gradients(backbone: str, backend: str) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = build_model(ModelConfig(backbone=backbone, image_size=8), FusionConfig(strategy="all", r=2), backend)
    logits = model(reference_images(size=8))
    logits.sum().backward()
    return [logits, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_default_dtype_of_torch_changes_no_bit(backend, small_backbone, request):
    expected = logits_and_gradients(small_backbone, backend)
    request.getfixturevalue("default_float64")
    found = logits_and_gradients(small_backbone, backend)
    assert torch.get_default_dtype() == torch.float64
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
