"""The C++ kernels as autograd functions: the scan, and the causal convolution with SiLU before it.

Only inputs are kept for backward; states and convolutions are computed again, a few kilobytes at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from famba_core.scan.native import library

STATE_SIZES = (1, 2, 4, 8, 16, 32)  # that the kernels are compiled for
TAPS = 4  # width of the convolution that the kernels are compiled for
LANES = 16


def why_not(*tensors: Tensor, state_size: int = 1, taps: int = TAPS) -> str | None:
    """Why the kernels cannot take these tensors, or None."""
    if any(t.device.type != "cpu" for t in tensors):
        return "the tensors are not on the CPU"
    if any(t.dtype not in (torch.float32, torch.bfloat16) for t in tensors):
        return "the tensors are neither float32 nor bfloat16"
    if state_size not in STATE_SIZES:
        return f"{state_size} states; compiled are {', '.join(map(str, STATE_SIZES))}"
    if taps != TAPS:
        return f"a convolution of width {taps}; compiled is {TAPS}"
    kernels = library()
    return kernels if isinstance(kernels, str) else None


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, *, reverse: Sequence[bool]
) -> Tensor:
    """See `famba_core.scan.selective_scan`. Computes in float32."""
    out: Tensor = _Scan.apply(u, delta, A, B, C, D, delta_bias, tuple(reverse))
    return out


def causal_conv_silu(x: Tensor, weight: Tensor, bias: Tensor, *, reverse: Sequence[bool]) -> Tensor:
    """See `famba_core.scan.causal_conv_silu`. Computes in float32."""
    out: Tensor = _Conv.apply(x, weight, bias, tuple(reverse))
    return out


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        delta_bias: Tensor,
        reverse: tuple[bool, ...],
    ) -> Tensor:
        ctx.save_for_backward(u, delta, A, B, C, D, delta_bias)
        ctx.reverse = reverse
        inputs = _float(u, delta, A.transpose(1, 2), B, C, D, delta_bias)
        y = torch.empty_like(inputs[0])
        _call("scan_forward", *u.shape, A.shape[2], *inputs, _flags(reverse), y)
        return y.to(u.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, delta_bias = ctx.saved_tensors
        batch, length, groups, width = u.shape
        states = A.shape[2]
        inputs = _float(u, delta, A.transpose(1, 2), B, C, D, delta_bias)
        (grad_y,) = _float(grad_y)
        grad_u, grad_delta, _, grad_B, grad_C, _, _ = (torch.empty_like(v) for v in inputs)
        grad_rate = torch.empty(batch, groups, states, width)
        grad_D, grad_bias = torch.empty(2, batch, groups, width).unbind()
        work = torch.empty(torch.get_num_threads() * (4 * states + 2) * length * LANES)
        gradients = (grad_u, grad_delta, grad_rate, grad_B, grad_C, grad_D, grad_bias)
        _call("scan_backward", *u.shape, states, *inputs, _flags(ctx.reverse), grad_y, *gradients, work)
        return (
            grad_u.to(u.dtype),
            grad_delta.to(delta.dtype),
            grad_rate.sum(0).transpose(1, 2),
            grad_B.to(B.dtype),
            grad_C.to(C.dtype),
            grad_D.sum(0),
            grad_bias.sum(0),
            None,
        )


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, reverse: tuple[bool, ...]) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.reverse = reverse
        batch, length, width = x.shape
        rows = _rows(x)
        out = torch.empty(batch, length, len(reverse), width)
        taps_first, offset = _float(weight.transpose(1, 2), bias)
        _call("conv_forward", *out.shape, rows, rows.stride(1), taps_first, offset, _flags(reverse), out)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        rows = _rows(x)
        taps_first, offset, grad_out = _float(weight.transpose(1, 2), bias, grad_out)
        batch, _, groups, width = grad_out.shape
        grad_x = torch.empty(x.shape)
        grad_weight = torch.empty(batch, groups, TAPS, width)
        grad_bias = torch.empty(batch, groups, width)
        _call(
            "conv_backward", *grad_out.shape, rows, rows.stride(1), taps_first, offset, _flags(ctx.reverse),
            grad_out, grad_x, grad_weight, grad_bias,
        )  # fmt: skip
        return grad_x.to(x.dtype), grad_weight.sum(0).transpose(1, 2), grad_bias.sum(0), None


def _call(name: str, *arguments: Tensor | int | bytes) -> None:
    """Call a kernel with integers as long, tensors and flags as pointers, and the number of threads."""
    kernels = library()
    assert isinstance(kernels, ctypes.CDLL), kernels
    converted = [
        ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_long(a) if isinstance(a, int) else a
        for a in arguments
    ]
    code = getattr(kernels, f"famba_{name}")(*converted, torch.get_num_threads())
    assert code == 0, f"{name} has no kernel for this number of states"


def _float(*tensors: Tensor) -> list[Tensor]:
    return [t.float().contiguous() for t in tensors]


def _rows(x: Tensor) -> Tensor:
    """x [B, L, E] in float32 with evenly spaced rows of contiguous channels, such as half of a projection's output."""
    evenly = x.stride(2) == 1 and x.stride(0) == x.shape[1] * x.stride(1)
    return x if evenly and x.dtype == torch.float32 else x.float().contiguous()


def _flags(reverse: Sequence[bool]) -> bytes:
    return bytes(reverse)
