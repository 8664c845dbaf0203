"""Behaviour that only a GPU can show; skipped with a reason on a machine without one."""

from typing import Any

import pytest
import torch

from famba_core import AugmentConfig, DataConfig, FusionConfig, ModelConfig, TrainConfig
from famba_core.data.image_dataset import Split
from famba_core.models.registry import build_model
from famba_core.ops import reference, torch_ops
from famba_core.ops.external import mamba_ssm_ops
from famba_core.training.cuda_graph import WARMUP_CALLS, wrap_in_graph
from famba_core.training.evaluate import BATCH_SIZE, Accuracy, Evaluator
from famba_core.training.trainer import Trainer

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
def test_epoch_runs_in_every_precision(precision: str) -> None:
    run = trainer(train=TrainConfig(epochs=1, batch_size=64, warmup_epochs=1, precision=precision))
    (metrics,) = run
    assert 0 < metrics.loss < 10
    result = run.result()
    assert result.peak_memory_source == "cuda_allocator"
    assert result.peak_memory_mib > 1
    assert result.device_name == torch.cuda.get_device_name()


def test_logits_agree_with_the_cpu() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(backbone="vim_nano", image_size=32), FUSION).eval()
    images = torch.randn(4, 3, 32, 32)
    torch.backends.cudnn.allow_tf32 = False
    with torch.no_grad():
        expected = model(images)
        found = model.cuda()(images.cuda()).cpu()
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-3)


def test_scan_agrees_with_the_twin() -> None:
    torch.manual_seed(0)
    B, L, G, E, N = 2, 37, 2, 24, 4
    shapes = ((B, L, G, E), (B, L, G, E), (G, E, N), (B, L, G, N), (B, L, G, N), (G, E), (G, E))
    cpu = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    cpu[2] = -cpu[2].abs()
    gpu = [x.cuda().float().requires_grad_() for x in cpu]
    cpu = [x.requires_grad_() for x in cpu]
    expected = reference.selective_scan(*cpu, reverse=(False, True))
    found = torch_ops.selective_scan(*gpu, reverse=(False, True))
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-4, atol=1e-4)
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), gpu), torch.autograd.grad(expected.square().sum(), cpu), strict=True
    ):
        torch.testing.assert_close(a.cpu().double(), b, rtol=1e-3, atol=1e-3 * b.abs().max().item())


def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("famba_core.training.cuda_graph.WARMUP_CALLS", 1 << 60)


def steps(run: Trainer, count: int) -> list[float]:
    """Return the losses of the first steps, with changing learning rates and batches."""
    run.generator.manual_seed(0)
    batches = torch.arange(128, device="cuda").split(64)
    split = run.train_split
    return torch.stack([
        run.step(split.images[batches[i % 2]], split.labels[batches[i % 2]], 1e-4 * (i + 1), run.generator)
        for i in range(count)
    ]).tolist()  # fmt: skip


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_replayed_steps_equal_eager_steps(precision: str, recompute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(epochs=2, batch_size=64, precision=precision, recompute=recompute, ema_decay=0.9)
    graphed = trainer(train=config, fusion=FusionConfig())
    found = steps(graphed, WARMUP_CALLS + 5)
    assert graphed.step._run is not None
    assert graphed.step._run.is_graph
    eager(monkeypatch)
    single = trainer(train=config, fusion=FusionConfig())
    expected = steps(single, WARMUP_CALLS + 5)
    assert single.step._run is not None
    assert not single.step._run.is_graph
    tolerance = 1e-3 if precision == "float32" else 2e-2
    assert found == pytest.approx(expected, rel=tolerance)
    assert len(set(found)) == len(found)
    for model in ("model", "ema"):
        state = single.step.state_dict()[model]
        for name, value in graphed.step.state_dict()[model].items():
            scale = state[name].abs().max().item()
            torch.testing.assert_close(value, state[name], rtol=tolerance, atol=tolerance * scale, msg=name)


@pytest.mark.parametrize("order", ["concat", "raster"])
def test_fused_step_is_captured(order: str) -> None:
    run = trainer(fusion=FusionConfig(strategy="upper", start_layer=6, r=2, order=order))
    assert all(0 < loss < 10 for loss in steps(run, WARMUP_CALLS + 3))
    assert run.step._run is not None
    assert run.step._run.is_graph


def test_evaluation_is_captured_and_follows_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer()
    head = run.step.model.head.weight
    images = torch.randint(0, 256, (6 * BATCH_SIZE + 5, 3, 8, 8), dtype=torch.uint8)
    split = Split(images=images, labels=torch.arange(len(images)) % 10).to("cuda")

    def accuracies() -> tuple[bool, list[Accuracy]]:
        evaluate = Evaluator(run.step.model, split, run.dataset, config=run.model_config, augmentation=run.augmentation)
        found = []
        for i in range(4):
            with torch.no_grad():
                head.copy_(torch.randn(head.shape, generator=torch.Generator().manual_seed(i)))
            found.append(evaluate())
        return evaluate._count.is_graph, found

    is_graph, found = accuracies()
    assert is_graph
    eager(monkeypatch)
    assert accuracies() == (False, found)
    assert len(set(found)) > 1


def test_graph_draws_the_random_numbers_of_eager_calls() -> None:
    graphed, alone = torch.Generator("cuda"), torch.Generator("cuda")

    def draw(generator: torch.Generator, like: torch.Tensor) -> torch.Tensor:
        alpha = torch.full((2, 2), 0.7, device="cuda")
        share = torch._sample_dirichlet(alpha, generator).sum()
        return torch.randn(like.shape, generator=generator, device="cuda") + share

    run = wrap_in_graph(lambda like: draw(graphed, like), torch.device("cuda"), name="it", generator=graphed)
    for i in range(WARMUP_CALLS + 6):
        if i % 3 == 0:
            graphed.manual_seed(1 << 63 | i)
            alone.manual_seed(1 << 63 | i)
        like = torch.empty(1000, device="cuda")
        assert torch.equal(run(like), draw(alone, like))
    assert run.is_graph


def test_function_that_waits_for_the_device_runs_without_a_graph(capsys: pytest.CaptureFixture[str]) -> None:
    graphed, alone = torch.Generator("cuda").manual_seed(3), torch.Generator("cuda").manual_seed(3)

    def work(generator: torch.Generator, x: torch.Tensor) -> torch.Tensor:
        drawn = torch.rand(5, generator=generator, device="cuda")
        return x * drawn.sum().item() + drawn

    run = wrap_in_graph(lambda x: work(graphed, x), torch.device("cuda"), name="the work", generator=graphed)
    for i in range(WARMUP_CALLS + 4):
        x = torch.full((5,), float(i), device="cuda")
        assert torch.equal(run(x), work(alone, x))
        if i % 3 == 2:
            graphed.manual_seed(i)
            alone.manual_seed(i)
    assert not run.is_graph
    assert capsys.readouterr().err.startswith("the work runs without a CUDA graph, which is slower: ")
    again = wrap_in_graph(lambda x: x + 1, torch.device("cuda"), name="other work")
    assert [again(torch.full((1,), float(i), device="cuda")).item() for i in range(6)] == [1, 2, 3, 4, 5, 6]
    assert again.is_graph, "a failed capture prevents the next one"


@pytest.mark.parametrize("graph", [False, True])
def test_step_never_waits_for_the_device(graph: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not graph:
        eager(monkeypatch)
    run = trainer()
    steps(run, WARMUP_CALLS + 2)
    images, labels = run.train_split.images[:64], run.train_split.labels[:64]
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.step(images, labels, 1e-3, run.generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.step._run is not None
    assert run.step._run.is_graph == graph


def test_resumed_run_continues(tmp_path: Any) -> None:
    config = {"data": DataConfig(dataset="digits", train_images=512), "fusion": FusionConfig()}  # 8 steps an epoch
    whole = list(trainer(**config))
    next(iter(trainer(checkpoint=tmp_path, **config)))
    resumed = trainer(checkpoint=tmp_path, **config)
    assert len(resumed.history) == 1
    (last,) = resumed
    assert last.loss == pytest.approx(whole[1].loss, rel=1e-3)
    assert last.top1_pct == pytest.approx(whole[1].top1_pct, abs=2)


def test_published_kernels_agree_with_the_twin() -> None:
    reason = mamba_ssm_ops.unsupported_reason()
    if reason is not None:
        pytest.skip(reason)
    generator = torch.Generator().manual_seed(0)
    B, L, G, E, N = 2, 37, 2, 24, 4
    shapes = ((B, L, G, E), (B, L, G, E), (G, E, N), (B, L, G, N), (B, L, G, N), (G, E), (G, E))
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    inputs[2] = -inputs[2].exp()
    conv = [torch.randn(shape, generator=generator) for shape in ((B, L, E), (G, E, 4), (G, E))]
    for name, tensors in (("selective_scan", inputs), ("causal_conv_silu", conv)):
        gpu = [x.cuda().requires_grad_() for x in tensors]
        cpu = [x.double().requires_grad_() for x in tensors]
        found = getattr(mamba_ssm_ops, name)(*gpu, reverse=(False, True))
        expected = getattr(reference, name)(*cpu, reverse=(False, True))
        torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-4, atol=1e-4)
        found, expected = (torch.autograd.grad(y.square().sum(), x) for y, x in ((found, gpu), (expected, cpu)))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a.cpu().double(), b, rtol=1e-3, atol=1e-3 * b.abs().max().item())
