"""The Triton kernels as a scan backend: whether they fit, and autograd functions over them.

Importing this does not import triton; the first call does. With TRITON_INTERPRET=1 in the environment triton runs its
kernels on the CPU, thousands of times slower, which is how they are tested without a GPU.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

STATE_SIZES = (1, 2, 4, 8, 16, 32)
TAPS = 4
KERNELS = (
    "rms_norm", "rms_norm_backward", "merge", "conv_forward", "conv_backward", "scan_forward", "scan_backward", "match",
)  # fmt: skip
OLDEST_DEVICE = (8, 0)  # compute capability; bfloat16 arithmetic starts there


def unsupported_reason(*tensors: Tensor, state_size: int = 1, taps: int = TAPS) -> str | None:
    """Why the kernels cannot take these tensors, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not interpreting():
        if any(t.device.type != "cuda" for t in tensors):
            return "the tensors are not on a CUDA device"
        if any(_capability(t.device) < OLDEST_DEVICE for t in tensors):
            return f"the device is older than compute capability {'.'.join(map(str, OLDEST_DEVICE))}"
    if any(t.dtype not in (torch.float32, torch.bfloat16) for t in tensors):
        return "the tensors are neither float32 nor bfloat16"
    if state_size not in STATE_SIZES:
        return f"{state_size} states; the kernels are for {', '.join(map(str, STATE_SIZES))}"
    if taps != TAPS:
        return f"a convolution of width {taps}; the kernels are for {TAPS}"
    return None


def interpreting() -> bool:
    """Whether triton runs its kernels on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def __getattr__(name: str) -> Any:
    """The kernels of a fused block (`famba_core.ops.kernels.Kernels`), which import triton."""
    if name not in KERNELS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_kernels(), name)


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, *, reverse: Sequence[bool]
) -> Tensor:
    """See `famba_core.ops.interface.selective_scan`. Computes in float32."""
    out: Tensor = _Scan.apply(u, delta, A, B, C, D, delta_bias, tuple(reverse))
    return out


def causal_conv_silu(x: Tensor, weight: Tensor, bias: Tensor, *, reverse: Sequence[bool]) -> Tensor:
    """See `famba_core.ops.interface.causal_conv_silu`. Computes in float32."""
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
        u, delta, B, C = (_evenly_spaced(v) for v in (u, delta, B, C))
        y: Tensor = _kernels().scan_forward(u, delta, A, B, C, D, delta_bias, None, reverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, delta_bias = ctx.saved_tensors
        u, delta, B, C, grad_y = (_evenly_spaced(v) for v in (u, delta, B, C, grad_y))
        grad_B, grad_C = (torch.empty(v.shape, dtype=v.dtype, device=v.device) for v in (B, C))
        grads = _kernels().scan_backward(
            u, delta, A, B, C, D, delta_bias, None, ctx.reverse, grad_y, grad_B, grad_C, None
        )
        return grads.u, grads.delta, grads.A, grad_B, grad_C, grads.D, grads.delta_bias, None


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, reverse: tuple[bool, ...]) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.reverse = reverse
        u: Tensor = _kernels().conv_forward(_evenly_spaced(x), weight, bias, reverse)
        return u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_u: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        x, grad_u = _evenly_spaced(x), _evenly_spaced(grad_u)
        grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        grad_weight, grad_bias = _kernels().conv_backward(x, weight, bias, ctx.reverse, grad_u, grad_x)
        return grad_x, grad_weight, grad_bias, None


def _evenly_spaced(x: Tensor) -> Tensor:
    """x [B, L, ..., channels] as the kernels take it: contiguous channels, and one distance between all tokens."""
    evenly = x.stride(-1) == 1 and (x.shape[0] == 1 or x.stride(0) == x.shape[1] * x.stride(1))
    return x if evenly else x.contiguous()


def _kernels() -> ModuleType:

    from famba_core.ops.triton import kernels

    return kernels


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
