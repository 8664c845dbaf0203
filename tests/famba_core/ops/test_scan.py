"""The selective scan: every backend against the naive one in float64, over lengths, widths, directions and extremes."""

from typing import Any

import pytest
import torch
from backends import FAST, conv_inputs, needs_kernels, outputs_and_gradients
from torch import Tensor

from famba_core.config import ConfigError
from famba_core.ops import reference, torch_ops
from famba_core.ops.cpu import backend
from famba_core.ops.interface import causal_conv_silu, selective_scan

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def scan_inputs(
    batch: int, length: int, groups: int, width: int, states: int, dtype: Any = torch.float32
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1000 * length + 10 * width + states)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = [
        normal(batch, length, groups, width),
        normal(batch, length, groups, width) - 2,
        -torch.exp(0.5 * normal(groups, width, states)) * torch.arange(1, states + 1),
        normal(batch, length, groups, states),
        normal(batch, length, groups, states),
        normal(groups, width),
        0.5 * normal(groups, width),
    ]
    return [x.to(dtype) for x in inputs]


def assert_agrees(
    inputs: list[Tensor], backend: str, reverse: tuple[bool, ...], rtol: float = 1e-5, grad_rtol: float = 1e-4
) -> None:
    found = outputs_and_gradients(selective_scan, inputs, reverse=reverse, backend=backend)
    expected = outputs_and_gradients(reference.selective_scan, [x.double() for x in inputs], reverse=reverse)
    for name, a, b, tolerance in zip(("y", *NAMES), found, expected, [rtol] + 7 * [grad_rtol], strict=True):
        error, scale = (a - b).abs().max().item(), b.abs().max().item()
        assert error <= tolerance * max(scale, 1.0), f"{name}: off by {error}, at a scale of {scale}"


@pytest.mark.parametrize("length", [1, 2, 3, 5, 17, 64, 129, 399])
@pytest.mark.parametrize("backend", FAST)
def test_scan_agrees_for_every_length(backend, length):
    assert_agrees(scan_inputs(2, length, 2, 19, 4), backend, (False, True))


@pytest.mark.parametrize("states", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("backend", FAST)
def test_scan_agrees_for_every_state_size(backend, states):
    assert_agrees(scan_inputs(2, 23, 2, 17, states), backend, (False, True))


@pytest.mark.parametrize("width", [1, 15, 16, 31, 48])
@pytest.mark.parametrize("backend", FAST)
def test_scan_agrees_for_every_width(backend, width):
    assert_agrees(scan_inputs(1, 11, 2, width, 4), backend, (True, False))


@pytest.mark.parametrize("reverse", [(False,), (True,), (True, True), (False, True, True, False)])
@pytest.mark.parametrize("backend", FAST)
def test_scan_agrees_for_every_combination_of_directions(backend, reverse):
    assert_agrees(scan_inputs(2, 9, len(reverse), 20, 2), backend, reverse)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_reversed_direction_equals_the_scan_of_the_reversed_sequence(backend):
    inputs = scan_inputs(2, 13, 1, 18, 4)
    flipped = [x.flip(1) if x.ndim == 4 else x for x in inputs]
    backwards = selective_scan(*inputs, reverse=(True,), backend=backend)
    torch.testing.assert_close(backwards.flip(1), selective_scan(*flipped, reverse=(False,), backend=backend))


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_scan_has_its_closed_forms(backend):
    u, delta, A, B, C, D, bias = scan_inputs(2, 10, 2, 16, 4)
    # steps of length zero: nothing enters the state, only the skip remains
    y = selective_scan(u, torch.full_like(delta, -200.0), A, B, C, D, bias, reverse=(False, True), backend=backend)
    torch.testing.assert_close(y, D * u)
    # very long steps: the state forgets everything but the current token
    long = torch.full_like(delta, 300.0)
    fast = torch.full_like(A, -5.0)
    y = selective_scan(u, long, fast, B, C, D, torch.zeros_like(bias), reverse=(False, True), backend=backend)
    torch.testing.assert_close(y, 300 * u * (B * C).sum(-1, keepdim=True) + D * u, rtol=1e-4, atol=1e-3)
    # no decay: the state is the cumulative sum
    still = torch.zeros_like(A)
    y = selective_scan(u, delta, still, B, C, D, bias, reverse=(False, True), backend=backend)
    step = torch.nn.functional.softplus(delta + bias)
    drive = torch.einsum("blge,blgn->blgen", step * u, B)
    states = torch.stack((drive[:, :, 0].cumsum(1), drive[:, :, 1].flip(1).cumsum(1).flip(1)), dim=2)
    torch.testing.assert_close(y, torch.einsum("blgen,blgn->blge", states, C) + D * u, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", [-60.0, 8.0, 60.0])
@pytest.mark.parametrize("backend", FAST)
def test_scan_agrees_for_extreme_steps(backend, shift):
    u, delta, *rest = scan_inputs(2, 12, 2, 17, 4)
    assert_agrees([u, delta + shift, *rest], backend, (False, True))


@pytest.mark.parametrize("backend", FAST)
def test_strided_inputs_give_the_same_bits(backend):
    dense = scan_inputs(2, 7, 2, 20, 4)
    sparse = [torch.stack((x, x + 1), dim=-1)[..., 0] for x in dense]
    assert not any(x.is_contiguous() for x in sparse)
    for a, b in zip(
        outputs_and_gradients(selective_scan, sparse, reverse=(False, True), backend=backend),
        outputs_and_gradients(selective_scan, dense, reverse=(False, True), backend=backend),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", FAST)
def test_expanded_output_gradient_is_accepted(backend):
    inputs = [x.requires_grad_() for x in scan_inputs(2, 7, 2, 20, 4)]
    selective_scan(*inputs, reverse=(False, True), backend=backend).sum().backward()
    naive = [x.detach().double().requires_grad_() for x in inputs]
    reference.selective_scan(*naive, reverse=(False, True)).sum().backward()
    for x, y in zip(inputs, naive, strict=True):
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", FAST)
def test_scan_agrees_for_bfloat16_activations(backend):
    inputs = scan_inputs(2, 31, 2, 24, 8)
    inputs = [x.bfloat16() if x.ndim == 4 else x for x in inputs]  # the parameters stay in float32, as in autocast
    y = selective_scan(*inputs, reverse=(False, True), backend=backend)
    assert y.dtype == torch.bfloat16
    assert_agrees(inputs, backend, (False, True), rtol=1e-2, grad_rtol=1e-2)


def test_torch_backend_keeps_float32_states_under_autocast():
    inputs = scan_inputs(2, 31, 2, 24, 8)
    expected = selective_scan(*inputs, reverse=(False, True), backend="torch")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(selective_scan(*inputs, reverse=(False, True), backend="torch"), expected)


def test_torch_backend_gives_the_same_result_in_blocks(monkeypatch):
    inputs = scan_inputs(5, 9, 2, 16, 4)
    whole = outputs_and_gradients(selective_scan, inputs, reverse=(False, True), backend="torch")
    monkeypatch.setitem(torch_ops.BLOCK_ELEMENTS, "cpu", 2 * 9 * 16 * 4)  # two images at a time, the last one alone
    for a, b in zip(
        outputs_and_gradients(selective_scan, inputs, reverse=(False, True), backend="torch"), whole, strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_gradients_of_the_torch_backend_match_finite_differences():
    inputs = [x.requires_grad_() for x in scan_inputs(2, 5, 2, 3, 2, torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: selective_scan(*x, reverse=(False, True), backend="torch"), inputs)


@needs_kernels
def test_cpu_kernels_give_the_same_bits_on_any_number_of_threads():
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        scanned = outputs_and_gradients(
            selective_scan, scan_inputs(3, 21, 2, 40, 8), reverse=(False, True), backend="cpu"
        )
        convolved = outputs_and_gradients(
            causal_conv_silu, conv_inputs(3, 21, 2, 40), reverse=(False, True), backend="cpu"
        )
        results.append(scanned + convolved)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@needs_kernels
def test_unsupported_tensors_go_to_torch_or_are_refused():
    three_states, wide_kernel = scan_inputs(1, 4, 1, 5, 3), conv_inputs(1, 6, 1, 5, taps=3)
    doubles = scan_inputs(1, 4, 1, 5, 4, torch.float64)
    for inputs in (three_states, doubles):
        assert torch.equal(
            selective_scan(*inputs, reverse=(False,)), selective_scan(*inputs, reverse=(False,), backend="torch")
        )
    assert torch.equal(
        causal_conv_silu(*wide_kernel, reverse=(True,)),
        causal_conv_silu(*wide_kernel, reverse=(True,), backend="torch"),
    )
    with pytest.raises(
        ConfigError, match="does not fit: the kernels are compiled for 1, 2, 4, 8, 16, 32 states, not 3; choose auto"
    ):
        selective_scan(*three_states, reverse=(False,), backend="cpu")
    with pytest.raises(ConfigError, match="neither float32 nor bfloat16"):
        selective_scan(*doubles, reverse=(False,), backend="cpu")
    with pytest.raises(ConfigError, match="compiled for a convolution of width 4, not 3"):
        causal_conv_silu(*wide_kernel, reverse=(False,), backend="cpu")
    with pytest.raises(ConfigError, match="'cuda' is not a scan backend; choose from auto, cpu, triton"):
        selective_scan(*three_states, reverse=(False,), backend="cuda")


@needs_kernels
def test_scan_runs_without_the_cpu_kernels(monkeypatch):
    inputs = scan_inputs(1, 6, 2, 16, 4)
    built = selective_scan(*inputs, reverse=(False, True), backend="cpu")
    monkeypatch.setattr(backend, "library", lambda: "no C++ compiler (g++ or clang++) was found")
    torch.testing.assert_close(selective_scan(*inputs, reverse=(False, True)), built)
    with pytest.raises(ConfigError, match=r"does not fit: no C\+\+ compiler \(g\+\+ or clang\+\+\) was found"):
        selective_scan(*inputs, reverse=(False, True), backend="cpu")


@pytest.mark.parametrize("backend", FAST)
def test_functions_take_an_empty_batch(backend):
    inputs = [x.requires_grad_() for x in scan_inputs(0, 5, 2, 6, 4)]
    y = selective_scan(*inputs, reverse=(False, True), backend=backend)
    u = causal_conv_silu(
        torch.zeros(0, 5, 6), torch.ones(2, 6, 4), torch.ones(2, 6), reverse=(False, True), backend=backend
    )
    assert y.shape == u.shape == (0, 5, 2, 6)
    y.sum().backward()
    assert all(x.grad is not None and not x.grad.any() for x in inputs)


def test_tensors_on_the_meta_device_give_shapes():
    inputs = [x.to("meta") for x in scan_inputs(1, 5, 2, 6, 4)]
    y = selective_scan(*inputs, reverse=(False, True))
    assert y.is_meta
    assert y.shape == (1, 5, 2, 6)
