"""TrainStep and learning_rate against closed forms: learning rate, weight decay, moving average, graph replay."""

import contextlib
import copy
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference_weights import reference_weights
from tape import TapeRecorder
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from famba_core import AugmentConfig, FusionConfig, FusionSchedule, ModelConfig, TrainConfig, build_model
from famba_core.data.image_dataset import ImageDataset, Split
from famba_core.training.cuda_graph import WARMUP_CALLS, GraphedFunction
from famba_core.training.step import TrainStep, learning_rate, parameter_groups

PLAIN = AugmentConfig(crop_scale_min=1.0, flip=False, random_erasing=0.0, mixup=0.0, cutmix=0.0, eval_crop=1.0)

FUSIONS = [
    FusionSchedule(schedule=(0, 2, 0, 1)),
    FusionSchedule(schedule=(3, 2, 1, 1), order="raster", weighting="size"),
]


def new_step(
    backbone: str,
    config: TrainConfig,
    steps: int = 100,
    *,
    fusion: FusionConfig = FUSIONS[0],
    augmentation: AugmentConfig = PLAIN,
    backend: str = "auto",
) -> TrainStep:
    model = build_model(ModelConfig(backbone=backbone, image_size=8, num_classes=5), fusion, backend)
    model.load_state_dict(reference_weights(model.state_dict()))
    empty = Split(images=torch.empty(0, 3, 8, 8, dtype=torch.uint8), labels=torch.empty(0, dtype=torch.long))
    dataset = ImageDataset(train=empty, test=empty, num_classes=5, mean=(0.5,) * 3, std=(0.25,) * 3)
    return TrainStep(model, dataset, augmentation, config, steps)


def a_batch(count: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 5, (count,), generator=generator)


def test_learning_rate_equals_values_by_hand():
    config = TrainConfig(epochs=300, lr=1e-3, min_lr=1e-5, warmup_epochs=5, warmup_lr=1e-6)
    steps = 390
    assert learning_rate(0, steps, config) == 1e-6
    assert learning_rate(975, steps, config) == pytest.approx((1e-6 + 1e-3) / 2)  # half of the warm-up
    assert learning_rate(1950, steps, config) == pytest.approx(1e-3)  # its end
    last = 300 * 390 - 1
    assert learning_rate(last, steps, config) == pytest.approx(1e-5)
    assert learning_rate((1950 + last + 1) // 2, steps, config) == pytest.approx((1e-3 + 1e-5) / 2, rel=1e-4)
    third = 1950 + (last - 1950) / 3
    expected = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi / 3)) / 2
    assert learning_rate(round(third), steps, config) == pytest.approx(expected, rel=1e-4)


def test_learning_rate_of_short_runs():
    no_warmup = TrainConfig(epochs=1, warmup_epochs=0, lr=1.0, min_lr=0.5)
    assert [learning_rate(i, 2, no_warmup) for i in range(2)] == [1.0, 0.5]
    assert learning_rate(0, 1, no_warmup) == 1.0
    all_warmup = TrainConfig(epochs=2, warmup_epochs=4, lr=1.0, warmup_lr=0.0)
    assert [learning_rate(i, 2, all_warmup) for i in range(4)] == [0, 0.125, 0.25, 0.375]


def test_weight_decay_applies_to_matrices_only(small_backbone):
    model = build_model(ModelConfig(backbone=small_backbone, image_size=8, num_classes=5))
    decayed, plain = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)] for p in decayed["params"]}
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    layer = ("A_log", "A_b_log", "in_proj.weight", "conv1d.weight", "conv1d_b.weight", "x_proj.weight",
             "x_proj_b.weight", "dt_proj.weight", "dt_proj_b.weight", "out_proj.weight")  # fmt: skip
    assert found == {"patch_embed.proj.weight", "head.weight"} | {
        f"layers.{i}.mixer.{name}" for i in range(4) for name in layer
    }


def test_step_is_adamw_with_label_smoothing(small_backbone):
    config = TrainConfig(weight_decay=0.1, label_smoothing=0.1, ema=False)
    step, other = new_step(small_backbone, config), new_step(small_backbone, config).model
    images, labels = a_batch()
    loss = step(images, labels, 1e-2, torch.Generator())

    targets = torch.full((6, 5), 0.1 / 5).scatter_(1, labels[:, None], 0.9 + 0.1 / 5)
    logits = other((images / 255 - 0.5) / 0.25)
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not loss.requires_grad
    expected.backward()
    decayed = {id(p) for p in parameter_groups(other, 0.1)[0]["params"]}
    for (name, new), old in zip(step.model.named_parameters(), other.parameters(), strict=True):
        # Adam's first step is the sign of the gradient; where that is near eps, compare nothing
        clear = old.grad.abs() > 1e-5
        shrunk = old * (1 - 1e-2 * 0.1) if id(old) in decayed else old
        torch.testing.assert_close(new[clear], (shrunk - 1e-2 * old.grad.sign())[clear], rtol=1e-4, atol=2e-5, msg=name)


def test_steps_lower_the_loss(small_backbone):
    step = new_step(small_backbone, TrainConfig(ema=False))
    images, labels = a_batch()
    losses = [step(images, labels, 3e-3, torch.Generator()).item() for _ in range(15)]
    assert losses[-1] < losses[0] / 2 + 0.3


@pytest.mark.parametrize(("steps", "decay"), [
    (117_000, 0.99996),  # the paper's run
    (11_700, 0.9996),
    (500, 1 - 117_000 * (1 - 0.99996) / 500),
    (3, 0.0),  # too short to average
])  # fmt: skip
def test_moving_average_spans_the_same_share_of_every_run(steps, decay, small_backbone):
    step = new_step(small_backbone, TrainConfig(), steps)
    images, labels = a_batch()
    first = step.model.head.weight.detach().clone()
    assert torch.equal(step.ema.head.weight, first), "the average begins with the initial weights"
    step(images, labels, 1e-2, torch.Generator())
    moved = step.model.head.weight - first
    expected = first + (1 - decay) * moved
    torch.testing.assert_close(step.ema.head.weight, expected, rtol=1e-5, atol=1e-6 * moved.abs().max().item())


def test_configured_ema_decay_is_used(small_backbone):
    step = new_step(small_backbone, TrainConfig(ema_decay=0.75))
    images, labels = a_batch()
    first = step.model.head.weight.detach().clone()
    step(images, labels, 1e-2, torch.Generator())
    torch.testing.assert_close(step.ema.head.weight, first + 0.25 * (step.model.head.weight - first))


def test_bfloat16_step_keeps_weights_in_float32(small_backbone):
    images, labels = a_batch()
    losses = {}
    for precision in ("float32", "bf16"):
        step = new_step(small_backbone, TrainConfig(precision=precision))
        losses[precision] = step(images, labels, 1e-3, torch.Generator()).item()
        assert {p.dtype for p in step.model.parameters()} == {torch.float32}
        assert {p.grad.dtype for p in step.model.parameters()} == {torch.float32}
    assert losses["bf16"] != losses["float32"]
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.1)


def tensors(step: TrainStep) -> list[torch.Tensor]:
    """Return every tensor that a step changes."""
    return [x for x in tree_leaves(step.state_dict()) if isinstance(x, torch.Tensor)]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_replayed_step_equals_the_plain_step(fusion, small_backbone, monkeypatch):
    """The capture must not fix the batch, the learning rate or the random numbers."""

    def on_tape(function: Callable[..., torch.Tensor], device: object, *, name: str, generator: Any) -> GraphedFunction:
        return GraphedFunction(function, TapeRecorder(lambda: tensors(replayed), generator), name)

    def run(step: TrainStep) -> list[float]:
        generator = torch.Generator()
        losses = []
        for i in range(WARMUP_CALLS + 6):
            if i % 4 == 0:
                generator.manual_seed(i)
            losses.append(step(*a_batch(seed=i), 1e-3 * (i + 1), generator))
        return torch.stack(losses).tolist()

    single, replayed = (
        new_step(
            small_backbone,
            TrainConfig(ema_decay=0.9),
            fusion=fusion,
            augmentation=AugmentConfig(),
            backend="torch",
        )
        for _ in range(2)
    )
    expected = run(single)
    monkeypatch.setattr("famba_core.training.step.wrap_in_graph", on_tape)
    assert run(replayed) == expected
    assert replayed._run is not None
    assert replayed._run.is_graph
    assert len(set(expected)) == len(expected)
    for a, b in zip(tensors(replayed), tensors(single), strict=True):
        assert torch.equal(a, b)


def test_step_from_a_saved_state_follows_the_learning_rate(small_backbone):
    images, labels = a_batch()
    generator = torch.Generator()
    first, second = (new_step(small_backbone, TrainConfig()) for _ in range(2))
    first(images, labels, 1e-2, generator)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in (first, second):
        step(images, labels, 3e-2, generator)
    for a, b in zip(tensors(second), tensors(first), strict=True):
        assert torch.equal(a, b)


class OnlyOneDevice(TorchDispatchMode):
    """Fails for operators between devices, because a copy from the host waits for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "_sample_dirichlet":  # the meta device has none
            return torch.empty_like(args[0])
        if name == "_fused_adamw_":  # nor this, which is one kernel
            assert all(x.device.type == "meta" for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor))
            return None
        result = func(*args, **(kwargs or {}))
        devices = {x.device.type for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)}
        assert devices <= {"meta"}, f"{func} on {devices}"
        return result


class MetaGenerator(torch.Generator):
    device = torch.device("meta")


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_step_does_not_copy_between_host_and_device(fusion, recompute, small_backbone, monkeypatch):
    """Tensors on the meta device have no values: reading one fails where a GPU would make the host wait."""
    monkeypatch.setattr("torch.autocast", lambda *args, **options: contextlib.nullcontext())
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda parameter: None)
    cpu = new_step(small_backbone, TrainConfig(), fusion=fusion)
    cpu.model.recompute = recompute
    step = TrainStep(cpu.model.to("meta"), cpu.dataset, AugmentConfig(), TrainConfig(), 100)
    images, labels = (x.to("meta") for x in a_batch())
    with OnlyOneDevice():
        loss = step(images, labels, 1e-3, MetaGenerator())
    assert loss.device.type == "meta"
