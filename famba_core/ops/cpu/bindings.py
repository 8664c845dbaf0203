"""The C++ kernels as Python functions through ctypes, as `famba_core.ops.kernels.Kernels` documents them."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from famba_core.config import Order
from famba_core.fusion import matching
from famba_core.fusion.matching import Match, Merge
from famba_core.ops.cpu.build import library
from famba_core.ops.kernels import TAPS, Reverse, ScanGradients

SUFFIX = {torch.float32: "_float32", torch.bfloat16: "_bfloat16", None: ""}  # of a kernel's C name


def match(metric: Tensor, r: int, class_index: Tensor, order: Order) -> Match:
    batch, length, width = metric.shape
    if length == 3:  # the class token can be the only odd token
        return matching.match(metric, r, class_index, order)
    target, class_after = class_index.new_empty(batch, length), torch.empty_like(class_index)
    sizes = batch, length, width, r, int(order == "raster")
    _call("match", None, *sizes, metric.float().contiguous(), class_index.contiguous(), target, class_after)
    return Match(target, length - r, class_after)


def rms_norm(residual: Tensor, weight: Tensor, eps: float, merge: Merge | None, dtype: torch.dtype) -> Tensor:
    return _merge_rows(residual, weight, eps, merge, dtype)


def merge(x: Tensor, merge: Merge) -> Tensor:
    return _merge_rows(x, None, 0.0, merge, x.dtype)


def _merge_rows(x: Tensor, weight: Tensor | None, eps: float, merge: Merge | None, dtype: torch.dtype) -> Tensor:
    batch, length, width = x.shape
    target, share, merged = merge or (None, None, length)
    out = x.new_empty(batch, merged, width, dtype=dtype)
    _call("merge_rows", dtype, batch, length, merged, width, target, share, x, weight, eps, out)
    return out


def rms_norm_backward(
    residual: Tensor, weight: Tensor, eps: float, merge: Merge | None, grad_hidden: Tensor, grad_skip: Tensor
) -> tuple[Tensor, Tensor]:
    batch, length, width = residual.shape
    target, share, merged = merge or (None, None, length)
    grad_residual, grad_weight = torch.empty_like(residual), residual.new_empty(batch, width)
    _call(
        "norm_backward", grad_hidden.dtype, batch, length, merged, width, target, share, residual, weight, eps,
        grad_hidden, grad_skip, grad_residual, grad_weight,
    )  # fmt: skip
    return grad_residual, grad_weight.sum(0)


def conv_forward(x: Tensor, weight: Tensor, bias: Tensor, reverse: Reverse) -> Tensor:
    # [B, L, G, E], stored direction by direction, as matrix products need it
    u = x.new_empty(len(reverse), *x.shape).permute(1, 2, 0, 3)
    _call("conv_forward", x.dtype, *_conv_sizes(x, u), x, _taps_first(weight), bias, bytes(reverse), u)
    return u


def conv_backward(
    x: Tensor, weight: Tensor, bias: Tensor, reverse: Reverse, grad_u: Tensor, grad_x: Tensor
) -> tuple[Tensor, Tensor]:
    batch, _, groups, width = grad_u.shape
    parameters = weight.new_empty(batch, groups, TAPS + 1, width)
    _call(
        "conv_backward", x.dtype, *_conv_sizes(x, grad_u), x, _taps_first(weight), bias, bytes(reverse), grad_u,
        grad_x, parameters,
    )  # fmt: skip
    parameters = parameters.sum(0)
    return parameters[:, :TAPS].transpose(1, 2), parameters[:, TAPS]


def scan_forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, z: Tensor | None,
    reverse: Reverse,
) -> Tensor:  # fmt: skip
    """See `Kernels.scan_forward`; without z, the result has the strides of u."""
    out = torch.empty_like(u) if z is None else z.new_empty(z.shape)
    _call(
        "scan_forward", u.dtype, *_scan_sizes(u, B, z), u, delta, _taps_first(A), B, C, D, delta_bias, bytes(reverse),
        z, out,
    )  # fmt: skip
    return out


def scan_backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, z: Tensor | None,
    reverse: Reverse, grad_out: Tensor, grad_B: Tensor, grad_C: Tensor, grad_z: Tensor | None,
) -> ScanGradients:  # fmt: skip
    """See `Kernels.scan_backward`; without z, grad_out must have the strides of u."""
    batch, length, groups, width = u.shape
    states = A.shape[2]
    grad_u, grad_delta = torch.empty_like(u), torch.empty_like(u)
    gated = u.new_empty((batch, length, width) if z is not None else 0)
    parameters = A.new_empty(batch, groups, states + 2, width)
    low_blocks = A.new_empty(batch, _kernel("famba_scan_blocks")(batch, width), groups, length, 2 * states)
    _call(
        "scan_backward", u.dtype, *_scan_sizes(u, B, z), u, delta, _taps_first(A), B, C, D, delta_bias, bytes(reverse),
        z, grad_out, gated, grad_u, grad_delta, parameters, low_blocks, grad_B, grad_C, grad_z,
    )  # fmt: skip
    parameters = parameters.sum(0)
    grad_A = parameters[:, :states].transpose(1, 2)
    return ScanGradients(gated, grad_u, grad_delta, grad_A, parameters[:, states], parameters[:, states + 1])


def _call(name: str, dtype: torch.dtype | None, *arguments: Tensor | int | float | bytes | None) -> None:
    """Call a kernel with the arguments and the number of threads. dtype: None if it exists for one dtype only."""
    kernel = _kernel(f"famba_{name}{SUFFIX[dtype]}")
    if kernel.argtypes is None:
        kinds = {int: ctypes.c_long, float: ctypes.c_float}  # everything else is a pointer
        kernel.argtypes = [*(kinds.get(type(a), ctypes.c_void_p) for a in arguments), ctypes.c_int]
    code = kernel(*[a.data_ptr() if isinstance(a, Tensor) else a for a in arguments], torch.get_num_threads())
    assert code == 0, f"{name} has no kernel for this number of states"


@functools.cache
def _kernel(name: str) -> Any:
    kernels = library()
    assert isinstance(kernels, ctypes.CDLL), kernels
    return getattr(kernels, name)


def _conv_sizes(x: Tensor, u: Tensor) -> tuple[int, ...]:
    return (*u.shape, _row(x), _row(u), u.stride(2))


def _scan_sizes(u: Tensor, B: Tensor, z: Tensor | None) -> tuple[int, ...]:
    return (*u.shape, B.shape[3], _row(u), u.stride(2), _row(B), B.stride(2), 0 if z is None else _row(z))


def _row(x: Tensor) -> int:
    """Return the elements from one token to the next, in the same image or not."""
    return x.stride(1) if x.shape[1] > 1 else x.stride(0)


def _taps_first(weight: Tensor) -> Tensor:
    """Return weight [G, E, k] as contiguous [G, k, E]: the kernels need contiguous channels."""
    return weight.transpose(1, 2).contiguous()
