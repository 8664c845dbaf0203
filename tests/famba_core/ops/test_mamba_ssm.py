"""The adapter to mamba-ssm and causal-conv1d against the naive twin, with fakes of the two packages.

The fakes do what the packages document, and refuse what their kernels refuse: wrong dtypes, and time that is not
contiguous. Only a GPU can show that the packages do what they document (test_cuda.py).
"""

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from backends import conv_inputs, outputs_and_gradients
from torch import Tensor

from famba_core.ops import reference
from famba_core.ops.external import mamba_ssm_ops

BOTH = (False, True)


def selective_scan_fn(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: None = None,
    delta_bias: Tensor | None = None, delta_softplus: bool = False, return_last_state: bool = False,
) -> Tensor:  # fmt: skip
    """u, delta [B, E, L]; A [E, N]; B, C [B, G, N, L], a group for every E / G channels in order."""
    assert {delta.dtype, B.dtype, C.dtype} == {u.dtype}
    assert {A.dtype, D.dtype, delta_bias.dtype} == {torch.float32}
    assert all(x.stride(-1) == 1 for x in (u, delta, B, C, D, delta_bias))
    channels, groups = u.shape[1], B.shape[1]
    of_channel = torch.arange(channels) // (channels // groups)
    step = (delta.double() + delta_bias.double()[:, None]).transpose(0, 1)
    step = F.softplus(step) if delta_softplus else step
    h = torch.zeros(channels, u.shape[0], A.shape[1], dtype=torch.float64)
    outputs = []
    for t in range(u.shape[2]):
        dt, x = step[:, :, t, None], u.double()[:, :, t].T[:, :, None]
        into, out_of = (v.double()[:, of_channel, :, t].transpose(0, 1) for v in (B, C))
        h = torch.exp(dt * A.double()[:, None]) * h + dt * into * x
        outputs.append((h * out_of).sum(-1).T + D.double() * u.double()[:, :, t])
    return torch.stack(outputs, dim=2).to(u.dtype)


def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    """x [B, E, L], weight [E, taps]."""
    assert x.is_contiguous()
    assert weight.dtype == bias.dtype == torch.float32
    assert activation == "silu"
    taps = weight.shape[1]
    padded = F.pad(x.double(), (taps - 1, 0))
    return F.silu(F.conv1d(padded, weight.double()[:, None], bias.double(), groups=len(weight))).to(x.dtype)


@pytest.fixture(autouse=True)
def _packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    scan, conv = ModuleType("mamba_ssm.ops.selective_scan_interface"), ModuleType("causal_conv1d")
    scan.selective_scan_fn, conv.causal_conv1d_fn = selective_scan_fn, causal_conv1d_fn  # type: ignore[attr-defined]
    for module in (ModuleType("mamba_ssm"), ModuleType("mamba_ssm.ops"), scan, conv):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    mamba_ssm_ops.load_functions.cache_clear()
    yield
    mamba_ssm_ops.load_functions.cache_clear()


def scan_inputs(length: int, groups: int, width: int = 6, states: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    rows, pairs = (3, length, groups), (groups, width)
    shapes = ((*rows, width), (*rows, width), (*pairs, states), (*rows, states), (*rows, states), pairs, pairs)
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    inputs[2] = -inputs[2].exp()
    return inputs


@pytest.mark.parametrize("reverse", [BOTH, (True,), (False, True, True, False)])
@pytest.mark.parametrize("length", [1, 2, 23])
def test_scan_agrees_with_the_twin(length, reverse):
    inputs = scan_inputs(length, len(reverse))
    found = outputs_and_gradients(mamba_ssm_ops.selective_scan, inputs, reverse=reverse)
    expected = outputs_and_gradients(reference.selective_scan, [x.double() for x in inputs], reverse=reverse)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize("reverse", [BOTH, (True,)])
@pytest.mark.parametrize(("length", "taps"), [(1, 4), (3, 4), (23, 4), (23, 2)])
def test_convolution_agrees_with_the_twin(length, taps, reverse):
    inputs = conv_inputs(3, length, len(reverse), 5, taps)
    found = outputs_and_gradients(mamba_ssm_ops.causal_conv_silu, inputs, reverse=reverse)
    expected = outputs_and_gradients(reference.causal_conv_silu, [x.double() for x in inputs], reverse=reverse)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1.0, b.abs().max().item()))


def test_scan_and_convolution_accept_views_and_bfloat16():
    u, delta, A, B, C, D, bias = scan_inputs(9, 2)
    stored = torch.cat((B, C), dim=-1).permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)  # direction by direction
    inputs = [u.bfloat16(), delta.bfloat16(), A, *stored.chunk(2, dim=-1), D, bias]
    y = mamba_ssm_ops.selective_scan(*inputs, reverse=BOTH)
    assert y.dtype == torch.bfloat16
    expected = reference.selective_scan(*inputs, reverse=BOTH)
    torch.testing.assert_close(y.float(), expected.float(), rtol=2e-2, atol=2e-2 * expected.abs().max().item())

    half = torch.randn(3, 9, 10).chunk(2, dim=-1)[1].bfloat16()
    weight, offset = torch.randn(2, 5, 4), torch.randn(2, 5)
    y = mamba_ssm_ops.causal_conv_silu(half, weight, offset, reverse=BOTH)
    assert y.dtype == torch.bfloat16
    expected = reference.causal_conv_silu(half, weight, offset, reverse=BOTH)
    torch.testing.assert_close(y.float(), expected.float(), rtol=2e-2, atol=2e-2)


def test_unsupported_tensors_are_refused():
    assert mamba_ssm_ops.unsupported_reason() is None
    assert mamba_ssm_ops.unsupported_reason(torch.zeros(1)) == "the tensors are not on a CUDA device"
    assert mamba_ssm_ops.unsupported_reason(state_size=257) == "the kernels take at most 256 states, not 257"
    assert mamba_ssm_ops.unsupported_reason(taps=5) == "the kernels take a convolution of width 2, 3, 4, not 5"


@pytest.mark.parametrize(("module", "package"), [
    ("mamba_ssm.ops.selective_scan_interface", "mamba-ssm"), ("causal_conv1d", "causal-conv1d"),
])  # fmt: skip
def test_missing_package_is_named(module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    reason = mamba_ssm_ops.unsupported_reason()
    assert reason is not None
    assert reason.startswith(f"{package} cannot be imported (")
