"""The choice of the tokens that fuse, in Triton: partners, the r best by counting instead of sorting, and targets."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from famba_core.config import Order
from famba_core.fusion import matching
from famba_core.ops.triton.math import on_device

COLUMNS = 32
# below every cosine; LEAST, for the class token, is below NaN as well, which counts as NOT_A_COSINE
NOT_A_COSINE = tl.constexpr(-3.0e38)
LEAST = tl.constexpr(-3.4e38)


@triton.jit
def _unit(x, out, width, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    row = tl.load(x + token * width + d, mask=d < width, other=0.0).to(tl.float32)
    norm = tl.maximum(tl.sqrt(tl.sum(row * row, axis=0)), 1e-12)
    tl.store(out + token * width + d, row / norm, mask=d < width)


@triton.jit(do_not_specialize=["evens", "odds"])
def _partners(similarity, class_index, best, partner, evens, odds, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Find each even token's most similar odd token (the first of equals), and the similarity."""
    image = tl.program_id(0).to(tl.int64)
    a = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    class_at = tl.load(class_index + image)
    most = tl.full([ROWS], LEAST, tl.float32)
    chosen = tl.zeros([ROWS], tl.int32)
    for start in range(0, odds, COLUMNS):
        b = start + tl.arange(0, COLUMNS)
        there = (a < evens)[:, None] & (b < odds)[None, :]
        found = tl.load(similarity + (image * evens + a[:, None]) * odds + b[None, :], mask=there, other=LEAST)
        found = tl.where(found == found, found, NOT_A_COSINE)
        found = tl.where((2 * b[None, :] + 1 != class_at) & (b < odds)[None, :], found, LEAST)
        here = tl.max(found, axis=1)
        first = tl.min(tl.where(found == here[:, None], b[None, :], odds), axis=1)
        chosen = tl.where(here > most, first, chosen)
        most = tl.maximum(here, most)
    most = tl.where(2 * a == class_at, LEAST, most)
    tl.store(best + image * evens + a, most, mask=a < evens)
    tl.store(partner + image * evens + a, chosen, mask=a < evens)


@triton.jit(do_not_specialize=["evens", "odds", "r"])
def _targets(
    best, partner, class_index, target, class_after, evens, odds, r,
    RASTER: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Choose the r even tokens with the highest similarity (the first of equals), and set every token's target."""
    image = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, TOKENS)
    is_even = i < evens
    mine = tl.load(best + image * evens + i, mask=is_even, other=LEAST)
    rank = tl.zeros([TOKENS], tl.int32)
    for start in range(0, evens, COLUMNS):
        j = start + tl.arange(0, COLUMNS)
        other = tl.load(best + image * evens + j, mask=j < evens, other=LEAST)
        before = (other[None, :] > mine[:, None]) | ((other[None, :] == mine[:, None]) & (j[None, :] < i[:, None]))
        rank += tl.sum((before & (j < evens)[None, :]).to(tl.int32), axis=1)
    removed = is_even & (rank < r)
    gone = tl.cumsum(removed.to(tl.int32), axis=0)  # fused tokens up to and including this even token
    if RASTER:
        even_place = 2 * i - gone
        odd_place = 2 * i + 1 - gone
    else:
        even_place = i - gone
        odd_place = evens - r + i
    row = target + image * (evens + odds)
    tl.store(row + 2 * i + 1, odd_place.to(tl.int64), mask=i < odds)
    tl.debug_barrier()  # other threads wrote the targets of the odd tokens
    at = tl.load(partner + image * evens + i, mask=is_even, other=0)
    joined = tl.load(row + 2 * at + 1, mask=removed, other=0)
    tl.store(row + 2 * i, tl.where(removed, joined, even_place.to(tl.int64)), mask=is_even)
    tl.debug_barrier()
    tl.store(class_after + image, tl.load(row + tl.load(class_index + image)))


@torch.no_grad()
def match(hidden: Tensor, r: int, class_index: Tensor, order: Order) -> matching.Match:
    """See `Kernels.match`."""
    batch, length, width = hidden.shape
    if length == 3:  # the class token can be the only odd token
        return matching.match(hidden, r, class_index, order)
    hidden = hidden.contiguous()
    unit = torch.empty_like(hidden, dtype=torch.float32)
    evens, odds = (length + 1) // 2, length // 2
    best = unit.new_empty(batch, evens)
    partner = unit.new_empty(batch, evens, dtype=torch.int32)
    target = class_index.new_empty(batch, length)
    class_after = torch.empty_like(class_index)
    tokens = triton.next_power_of_2(evens)
    rows = min(32, tokens)
    with on_device(hidden), torch.autocast(hidden.device.type, enabled=False):
        _unit[(batch * length,)](hidden, unit, width, BLOCK=triton.next_power_of_2(width), num_warps=1)
        similarity = unit[:, 0::2] @ unit[:, 1::2].transpose(1, 2)
        _partners[(batch, triton.cdiv(evens, rows))](
            similarity, class_index, best, partner, evens, odds, ROWS=rows, COLUMNS=COLUMNS, num_warps=4
        )
        _targets[(batch,)](
            best, partner, class_index, target, class_after, evens, odds, r,
            RASTER=order == "raster", TOKENS=tokens, COLUMNS=COLUMNS, num_warps=4,
        )  # fmt: skip
    return matching.Match(target, length - r, class_after)
