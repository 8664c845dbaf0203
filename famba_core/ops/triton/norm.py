"""RMSNorm and the merge of fused tokens in Triton, forward and backward.

The merge is a gather: the program of each remaining token finds the tokens with this target in ascending order. So
sums are deterministic and need no atomics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from famba_core.ops.triton.math import on_device

if TYPE_CHECKING:
    from famba_core.fusion.matching import Merge

ROWS_OF_A_PROGRAM = 8  # tokens over which a program sums the gradient of the weight before it writes the sum


@triton.jit(do_not_specialize=["length", "shorter"])
def _gather(
    x, weight, target, share, out, length, shorter, width, eps,
    NORM: tl.constexpr, MERGE: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0)
    d = tl.arange(0, BLOCK)
    inside = d < width
    total = tl.zeros([BLOCK], tl.float32)
    sources = 1
    token = place
    if MERGE:
        t = tl.arange(0, TOKENS)
        chosen = tl.load(target + image * length + t, mask=t < length, other=-1) == place
        sources = tl.sum(chosen.to(tl.int32), axis=0)
        token = tl.min(tl.where(chosen, t, TOKENS), axis=0)
    for _ in range(sources):
        row = tl.load(x + (image * length + token) * width + d, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            row = row * tl.rsqrt(tl.sum(row * row, axis=0) / width + eps)
        if MERGE:
            row = row * tl.load(share + image * length + token)
            token = tl.min(tl.where(chosen & (t > token), t, TOKENS), axis=0)
        total += row
    if NORM:
        total = total * tl.load(weight + d, mask=inside, other=0.0)
    tl.store(out + (image * shorter + place) * width + d, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens", "length", "shorter"])
def _norm_backward(
    x, weight, target, share, grad_hidden, grad_skip, grad_x, sums, tokens, length, shorter, width, eps,
    MERGE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    d = tl.arange(0, BLOCK)
    inside = d < width
    w = tl.load(weight + d, mask=inside, other=0.0)
    grad_w = tl.zeros([BLOCK], tl.float32)
    for i in range(ROWS):
        token = tl.program_id(0).to(tl.int64) * ROWS + i
        there = d < tl.where(token < tokens, width, 0)
        at = token
        part = 1.0
        if MERGE:
            known = tl.minimum(token, tokens - 1)
            at = known // length * shorter + tl.load(target + known)
            part = tl.load(share + known)
        row = tl.load(x + token * width + d, mask=there, other=0.0)
        grad = tl.load(grad_hidden + at * width + d, mask=there, other=0.0).to(tl.float32) * part
        skip = tl.load(grad_skip + at * width + d, mask=there, other=0.0) * part
        scale = tl.rsqrt(tl.sum(row * row, axis=0) / width + eps)
        unit = row * scale
        grad_w += grad * unit
        grad = grad * w
        grad = scale * (grad - unit * (tl.sum(grad * unit, axis=0) / width))
        tl.store(grad_x + token * width + d, skip + grad, mask=there)
    tl.store(sums + tl.program_id(0).to(tl.int64) * width + d, grad_w, mask=inside)


def rms_norm(residual: Tensor, weight: Tensor, eps: float, merge: Merge | None, dtype: torch.dtype) -> Tensor:
    """See `Kernels.rms_norm`."""
    return _gathered(residual.contiguous(), weight, eps, merge, dtype)


def merge(x: Tensor, merge: Merge) -> Tensor:
    """See `Kernels.merge`."""
    return _gathered(x.contiguous(), None, 0.0, merge, x.dtype)


def rms_norm_backward(
    residual: Tensor, weight: Tensor, eps: float, merge: Merge | None, grad_hidden: Tensor, grad_skip: Tensor
) -> tuple[Tensor, Tensor]:
    """See `Kernels.rms_norm_backward`."""
    residual, grad_hidden, grad_skip = residual.contiguous(), grad_hidden.contiguous(), grad_skip.contiguous()
    batch, length, width = residual.shape
    block = triton.next_power_of_2(width)
    grid = (triton.cdiv(batch * length, ROWS_OF_A_PROGRAM),)
    grad_residual = torch.empty_like(residual)
    sums = residual.new_empty(*grid, width)
    target, share = (merge.target, merge.share) if merge else (residual, residual)
    with on_device(residual):
        _norm_backward[grid](
            residual, weight, target, share, grad_hidden, grad_skip, grad_residual, sums,
            batch * length, length, grad_hidden.shape[1], width, eps,
            MERGE=merge is not None, BLOCK=block, ROWS=ROWS_OF_A_PROGRAM, num_warps=_warps(block),
        )  # fmt: skip
    return grad_residual, sums.sum(0)


def _gathered(x: Tensor, weight: Tensor | None, eps: float, merge: Merge | None, dtype: torch.dtype) -> Tensor:
    batch, length, width = x.shape
    shorter = merge.length if merge else length
    out = x.new_empty(batch, shorter, width, dtype=dtype)
    target, share = (merge.target, merge.share) if merge else (x, x)
    block = triton.next_power_of_2(width)
    with on_device(x):
        _gather[(shorter, batch)](
            x, x if weight is None else weight, target, share, out, length, shorter, width, eps,
            NORM=weight is not None, MERGE=merge is not None, BLOCK=block, TOKENS=triton.next_power_of_2(length),
            num_warps=_warps(block),
        )  # fmt: skip
    return out


def _warps(block: int) -> int:
    return min(8, max(1, block // 512))
