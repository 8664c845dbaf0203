"""Scalar functions of the Triton kernels, and the strides of their tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))


@triton.jit
def softplus(x):
    """Return log(1 + exp(x)) and its derivative, both to a few units in the last place for every x."""
    z = tl.exp2(-tl.abs(x) * LOG2E)
    # log(1 + z) = 2 artanh(z / (2 + z)) by the first terms of the series; the argument is at most 1/3
    s = z / (2.0 + z)
    q = s * s
    series = 1.0 / 11.0 + q * (1.0 / 13.0)
    series = 1.0 / 9.0 + q * series
    series = 1.0 / 7.0 + q * series
    series = 1.0 / 5.0 + q * series
    series = 1.0 / 3.0 + q * series
    value = tl.maximum(x, 0.0) + 2.0 * s * (1.0 + q * series)
    return value, tl.where(x < 0.0, z, 1.0) / (1.0 + z)


def on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make the tensor's device the current one, on which Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def row_stride(x: Tensor) -> int:
    """Return the elements from one token to the next in x [B, L, ...], whose B L tokens are evenly spaced."""
    batch, length = x.shape[:2]
    stride = x.stride(1) if length > 1 else x.stride(0)
    assert x.stride(-1) == 1 or x.shape[-1] == 1, "the channels are not contiguous"
    assert batch == 1 or x.stride(0) == length * stride, "the tokens are not evenly spaced"
    return stride


def vector_width(*tensors: Tensor) -> int:
    """Return 4 if the channels of every token can be loaded four at a time, else 1.

    Triton itself only recognises multiples of 16. B and C, stored next to the low-rank steps, are not.
    """
    aligned = all(
        x.shape[-1] % 4 == 0 and x.data_ptr() % (4 * x.element_size()) == 0 and not any(s % 4 for s in x.stride()[:-1])
        for x in tensors
    )
    return 4 if aligned else 1


def direction_first(batch: int, length: int, groups: int, width: int, like: Tensor) -> Tensor:
    """Return an empty [B, L, G, E] that is stored direction by direction, as the matrix products need it."""
    return like.new_empty(groups, batch, length, width).permute(1, 2, 0, 3)


def direction_bits(reverse: Sequence[bool]) -> int:
    """Return `reverse` as an integer, one bit for each direction."""
    return sum(int(backwards) << g for g, backwards in enumerate(reverse))
