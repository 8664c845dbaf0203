"""The Triton kernels against float64 twins: on a GPU if there is one, else in Triton's interpreter.

The interpreter must be chosen before triton is imported, so `test_triton_interpreted.py` runs this file in a process
of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from backends import conv_inputs, outputs_and_gradients
from test_scan import scan_inputs
from torch import Tensor

from famba_core.fusion import matching
from famba_core.fusion.matching import Merge
from famba_core.models.vim.model import Block
from famba_core.ops import reference
from famba_core.ops.interface import causal_conv_silu, selective_scan
from famba_core.ops.triton.backend import interpreting, load_kernels, unsupported_reason

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
UNFIT = unsupported_reason(torch.empty(0, device=DEVICE))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(UNFIT is not None, reason=f"{UNFIT}; test_triton_interpreted.py runs these in an interpreter"),
]
BOTH = (False, True)
# bfloat16 has eight bits; the interpreter rounds it towards zero, about a dozen times in a layer
LAYER_BF16 = 6e-2 if interpreting() else 3e-2


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fill uninitialised memory with NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def assert_close(found: Tensor, expected: Tensor, tolerance: float, name: str = "") -> None:
    error, scale = (found.double().cpu() - expected.cpu()).abs().max().item(), expected.abs().max().item()
    assert error <= tolerance * max(scale, 1e-3), f"{name}: off by {error}, at a scale of {scale}"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def halves(batch: int, length: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return x and z in one tensor, as the input projection stores them."""
    x, z = normal(batch, length, 2 * width, seed=length).to(DEVICE, dtype).chunk(2, dim=-1)
    return x, z


def by_direction(x: Tensor, before: int = 0) -> Tensor:
    """Return x [B, L, G, X] as a view of a tensor [G, B, L, before + X] that is NaN elsewhere."""
    batch, length, groups, width = x.shape
    wide = torch.full((groups, batch, length, before + width), torch.nan, dtype=x.dtype, device=DEVICE)
    view = wide.permute(1, 2, 0, 3)[..., before:]
    view.copy_(x)
    return view


def gated_twin(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor, z: Tensor) -> Tensor:
    reverse = BOTH[: u.shape[2]]
    return reference.selective_scan(u, delta, A, B, C, D, bias, reverse=reverse).mean(2) * F.silu(z)


@pytest.mark.parametrize(
    ("length", "width", "states", "groups", "dtype"),
    [
        (1, 5, 16, 2, torch.float32),
        (7, 33, 16, 2, torch.float32),
        (18, 40, 4, 2, torch.float32),
        (5, 20, 32, 2, torch.float32),
        (6, 130, 1, 1, torch.float32),
        (9, 32, 8, 2, torch.bfloat16),
        (13, 35, 16, 2, torch.bfloat16),
    ],
)
def test_gated_scan_agrees_with_the_twin(length, width, states, groups, dtype):
    precise = dtype == torch.float32
    u, delta, A, B, C, D, bias = (x.to(DEVICE) for x in scan_inputs(2, length, groups, width, states))
    _, z = halves(2, length, width, dtype)
    low = by_direction(torch.cat((B, C), dim=-1).to(dtype), before=12)
    B, C = low.split(states, dim=-1)
    inputs = (by_direction(u.to(dtype)), by_direction(delta.to(dtype)), A, B, C, D, bias, z)
    found = load_kernels().scan_forward(*inputs, BOTH[:groups])

    twins = [x.detach().double().cpu().requires_grad_() for x in inputs]
    expected = gated_twin(*twins)
    assert found.dtype == dtype
    assert_close(found, expected.detach(), 1e-5 if precise else 1e-2)

    grad = normal(2, length, width, seed=1).to(DEVICE, dtype)
    grad_low = torch.full((groups, 2, length, 12 + 2 * states), torch.nan, dtype=dtype, device=DEVICE)
    grad_B, grad_C = grad_low.permute(1, 2, 0, 3)[..., 12:].split(states, dim=-1)
    grad_xz = torch.full((2, length, 2 * width), torch.nan, dtype=dtype, device=DEVICE)
    grads = load_kernels().scan_backward(*inputs, BOTH[:groups], grad, grad_B, grad_C, grad_xz[..., width:])
    assert torch.equal(grads.gated, found)
    expected_grads = torch.autograd.grad((expected * grad.double().cpu()).sum(), twins)
    all_found = (grads.u, grads.delta, grads.A, grad_B, grad_C, grads.D, grads.delta_bias, grad_xz[..., width:])
    for name, a, b in zip(
        ("u", "delta", "A", "B", "C", "D", "delta_bias", "z"), all_found, expected_grads, strict=True
    ):
        assert_close(a, b, 1e-4 if precise else 1e-2, name)
    # nothing else was written
    assert grad_low[..., :12].isnan().all()
    assert grad_xz[..., :width].isnan().all()


@pytest.mark.parametrize(("length", "width", "states"), [(1, 40, 16), (4, 33, 16), (11, 19, 2)])
def test_scan_without_a_gate_agrees_with_the_twin(length, width, states):
    inputs = scan_inputs(2, length, 3, width, states)
    reverse = (False, True, True)
    found = outputs_and_gradients(selective_scan, [x.to(DEVICE) for x in inputs], reverse=reverse, backend="triton")
    expected = outputs_and_gradients(reference.selective_scan, [x.double() for x in inputs], reverse=reverse)
    for a, b, tolerance in zip(found, expected, [1e-5] + 7 * [1e-4], strict=True):
        assert_close(a, b, tolerance)


@pytest.mark.parametrize("shift", [-200.0, -12.0, 0.0, 20.0, 90.0])
def test_scan_agrees_for_extreme_steps(shift):
    u, delta, *rest = scan_inputs(1, 6, 1, 17, 4)
    inputs = [u, delta + shift, *rest]
    found = outputs_and_gradients(selective_scan, [x.to(DEVICE) for x in inputs], reverse=(True,), backend="triton")
    expected = outputs_and_gradients(reference.selective_scan, [x.double() for x in inputs], reverse=(True,))
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-4)


def test_strided_inputs_give_the_same_bits():
    dense = [x.to(DEVICE) for x in scan_inputs(2, 5, 2, 8, 4)]
    sparse = [torch.stack((x, x + 1), dim=-1)[..., 0] for x in dense]
    for a, b in zip(
        outputs_and_gradients(selective_scan, sparse, reverse=BOTH, backend="triton"),
        outputs_and_gradients(selective_scan, dense, reverse=BOTH, backend="triton"),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("length", "width"), [(1, 5), (3, 64), (35, 70), (62, 3), (125, 2)])
@pytest.mark.parametrize("reverse", [(False, True), (True,), (False, True, False)])
def test_convolution_agrees_with_the_twin(length, width, reverse):
    inputs = conv_inputs(2, length, len(reverse), width)
    found = outputs_and_gradients(causal_conv_silu, [x.to(DEVICE) for x in inputs], reverse=reverse, backend="triton")
    expected = outputs_and_gradients(reference.causal_conv_silu, [x.double() for x in inputs], reverse=reverse)
    for a, b, tolerance in zip(found, expected, [1e-5] + 3 * [1e-4], strict=True):
        assert_close(a, b, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolution_agrees_for_views(dtype):
    x, _ = halves(2, 21, 24, dtype)
    _, weight, bias = (v.to(DEVICE) for v in conv_inputs(2, 21, 2, 24))
    grad_u = by_direction(normal(2, 21, 2, 24, seed=5).to(DEVICE, dtype))
    grad_xz = torch.full((2, 21, 48), torch.nan, dtype=dtype, device=DEVICE)
    u = load_kernels().conv_forward(x, weight, bias, BOTH)
    grad_weight, grad_bias = load_kernels().conv_backward(x, weight, bias, BOTH, grad_u, grad_xz[..., :24])
    twins = [v.double().cpu().requires_grad_() for v in (x, weight, bias)]
    expected = reference.causal_conv_silu(*twins, reverse=BOTH)
    grads = torch.autograd.grad((expected * grad_u.double().cpu()).sum(), twins)
    assert u.dtype == dtype
    assert u.stride(2) == 2 * 21 * 24, "not stored direction first"
    assert_close(u, expected.detach(), 1e-5 if dtype == torch.float32 else 1e-2)
    for a, b in zip((grad_xz[..., :24], grad_weight, grad_bias), grads, strict=True):
        assert_close(a, b, 1e-4 if dtype == torch.float32 else 1e-2)
    assert grad_xz[..., 24:].isnan().all()


def some_merge(length: int, r: int) -> Merge:
    """Return a merge for two images, with up to r sources of a token."""
    target = torch.arange(length).clamp(max=length - r - 1).repeat(2, 1)
    target[1] = target[1].flip(0)
    counts = torch.zeros(2, length - r).scatter_add(1, target, torch.ones(2, length))
    share = torch.rand(2, length, generator=torch.Generator().manual_seed(3)) / counts.gather(1, target)
    return Merge(target.to(DEVICE), share.to(DEVICE, torch.float32), length - r)


def naive_merge(x: Tensor, merge: Merge | None) -> Tensor:
    if merge is None:
        return x
    target, share = merge.target.cpu(), merge.share.double().cpu()
    out = [[x.new_zeros(x.shape[2]) for _ in range(merge.length)] for _ in x]
    for image in range(len(x)):
        for t in range(x.shape[1]):
            place = int(target[image, t])
            out[image][place] = out[image][place] + share[image, t] * x[image, t]
    return torch.stack([torch.stack(rows) for rows in out])


@pytest.mark.parametrize(("length", "width", "r"), [(1, 8, 0), (9, 192, 0), (9, 40, 4), (22, 7, 1), (7, 600, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_and_merge_agree_with_the_twin(length, width, r, dtype):
    merge = some_merge(length, r) if r else None
    residual, weight = 3 * normal(2, length, width) + 1, normal(width, seed=1) + 1
    grad_hidden, grad_skip = normal(2, length - r, width, seed=2).to(dtype), normal(2, length - r, width, seed=3)
    twins = [residual.float().double().requires_grad_(), weight.float().double().requires_grad_()]
    hidden = naive_merge(F.rms_norm(twins[0], (width,), twins[1], 1e-5), merge)
    skip = naive_merge(twins[0], merge)
    pulled = (hidden * grad_hidden.double()).sum() + (skip * grad_skip.float().double()).sum()
    expected = torch.autograd.grad(pulled, twins)

    on_device = [x.to(DEVICE, torch.float32) for x in (residual, weight)]
    found = load_kernels().rms_norm(*on_device, 1e-5, merge, dtype)
    assert found.dtype == dtype
    assert_close(found, hidden.detach(), 1e-5 if dtype == torch.float32 else 1e-2)
    grads = load_kernels().rms_norm_backward(
        *on_device, 1e-5, merge, grad_hidden.to(DEVICE), grad_skip.to(DEVICE, torch.float32)
    )
    for a, b in zip(grads, expected, strict=True):
        assert_close(a, b, 1e-4)
    if merge:
        assert_close(load_kernels().merge(on_device[0], merge), skip.detach(), 1e-5)


@pytest.mark.parametrize("order", ["concat", "raster"])
@pytest.mark.parametrize(("length", "r"), [(3, 1), (4, 1), (5, 2), (34, 16), (65, 9), (71, 35)])
def test_same_tokens_fuse_as_in_torch(length, r, order):
    metric = normal(5, length, 12, seed=length).float().to(DEVICE)
    class_index = torch.tensor([0, length - 1, length // 2, 1, 2], device=DEVICE)
    found = load_kernels().match(metric, r, class_index, order)
    expected = matching.match(metric, r, class_index, order)
    assert found.length == expected.length
    assert torch.equal(found.target, expected.target)
    assert torch.equal(found.class_index, expected.class_index)


def test_first_of_equal_tokens_fuse_and_never_the_class_token():
    metric = torch.ones(2, 11, 4, device=DEVICE)
    metric[1] = torch.nan
    found = load_kernels().match(metric, 3, torch.tensor([0, 2], device=DEVICE), "raster")
    # first image: even tokens 2, 4, 6 fuse into token 1; second image, with class token 2: 0, 4 and 6
    assert found.target.tolist() == [[0, 1, 1, 2, 1, 3, 1, 4, 5, 6, 7], [0, 0, 1, 2, 0, 3, 0, 4, 5, 6, 7]]
    assert found.class_index.tolist() == [0, 1]


@pytest.fixture(params=[torch.float32, torch.float64], ids=["", "default float64"])
def default_dtype(request: pytest.FixtureRequest) -> Iterator[None]:
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("r", [0, 4])
def test_whole_layer_agrees_with_the_composed_one(r, bf16, default_dtype):
    torch.manual_seed(0)
    block = Block(16, 8, 2, "triton").to(DEVICE, torch.float32)
    residual = normal(2, 10, 16).float().to(DEVICE)
    twin = copy.deepcopy(block).double().cpu()
    twin.backend = "reference"
    merge = some_merge(10, r) if r else None
    double = merge and Merge(merge.target.cpu(), merge.share.double().cpu(), merge.length)
    pull = normal(2, 10 - r, 16, seed=9)

    leaf, twin_leaf = residual.clone().requires_grad_(), residual.double().cpu().requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
        out = block(leaf, merge, False)
    expected = twin(twin_leaf, double, False)
    assert_close(out.detach(), expected.detach(), 1e-2 if bf16 else 1e-5)
    (out.double() * pull.to(DEVICE)).sum().backward()
    (expected * pull).sum().backward()
    for a, b in zip((leaf, *block.parameters()), (twin_leaf, *twin.parameters()), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        error = (a.grad.double().cpu() - b.grad).norm() / b.grad.norm()
        assert error < (LAYER_BF16 if bf16 else 1e-4)


def test_layer_takes_an_empty_batch():
    block = Block(16, 8, 2, "triton").to(DEVICE)
    block(torch.zeros(0, 10, 16, device=DEVICE), None, False).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in block.parameters())
    empty = Merge(torch.zeros(0, 10, dtype=torch.long, device=DEVICE), torch.zeros(0, 10, device=DEVICE), 6)
    assert block(torch.zeros(0, 10, 16, device=DEVICE), empty, False).shape == (0, 6, 16)
    matched = block.match(torch.zeros(0, 10, 16, device=DEVICE), 4, torch.zeros(0, dtype=torch.long), "concat")
    assert matched.target.shape == (0, 10)


def test_norm_weight_with_strides_gives_the_same_bits():
    block = Block(16, 8, 2, "triton").to(DEVICE)
    block.norm.weight.data.copy_(normal(16))
    residual = normal(2, 6, 16).float().to(DEVICE)
    expected = block(residual, None, False)
    block.norm.weight = torch.nn.Parameter(
        torch.stack((block.norm.weight.data, torch.ones(16, device=DEVICE)), 1)[:, 0]
    )
    assert torch.equal(block(residual, None, False), expected)


def test_scan_is_bitwise_reproducible():
    inputs = [x.to(DEVICE) for x in scan_inputs(2, 5, 2, 20, 16)]
    one, two = (outputs_and_gradients(selective_scan, inputs, reverse=BOTH, backend="triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
