"""The selective scan in Triton, backward.

The forward walk is repeated and stores the states before every chunk of tokens. Then a program takes the chunks of one
direction from the last to the first: it computes the states of the chunk again, in registers, and walks it backwards.
This needs many registers, so each direction is a program of its own here: more and shorter programs use the device more
evenly. The states are distributed over the lanes by channel and by state, so sums over the channels (the gradients of B
and C) and over the states both need few exchanges between lanes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from famba_core.ops.kernels import ScanGradients
from famba_core.ops.triton.math import (
    LN2,
    LOG2E,
    direction_bits,
    direction_first,
    on_device,
    row_stride,
    sigmoid,
    softplus,
    vector_width,
)
from famba_core.ops.triton.scan import CHUNK, channel_block, scan_forward


@triton.jit(do_not_specialize=["length", "bits", "chunks", "b_row", "b_group", "c_row", "c_group"])
def _backward(
    u, delta, A, B, C, D, delta_bias, z, grad, kept, grad_u, grad_delta, partial, sums,
    length, width, bits, chunks,
    u_row, u_group, delta_row, delta_group, b_row, b_group, c_row, c_group, z_row, grad_row, grad_group,
    grad_u_row, grad_u_group,
    G: tl.constexpr, N: tl.constexpr, GATED: tl.constexpr, VECTOR: tl.constexpr,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    g = tl.program_id(2)
    e = block * BLOCK + tl.arange(0, BLOCK)
    inside = e < width
    e = tl.minimum(e, width - 1)  # so loads need no mask; the gradient beyond the last channel or token is zero
    n = tl.arange(0, N)
    tile = tl.arange(0, BLOCK)[:, None] * N + n[None, :]
    at_n = (g * width + e[:, None]) * N + n[None, :]
    a = tl.load(A + at_n) * LOG2E
    skip = tl.load(D + g * width + e)
    offset = tl.load(delta_bias + g * width + e)
    backwards = (bits >> g) & 1
    start = image * length + backwards * (length - 1)
    sign = 1 - 2 * backwards
    at_u = u + g * u_group + start * u_row + e
    at_delta = delta + g * delta_group + start * delta_row + e
    at_b = B + VECTOR * (g * b_group + start * b_row) + n
    at_c = C + VECTOR * (g * c_group + start * c_row) + n
    if VECTOR > 1:
        at_b = tl.multiple_of(at_b, VECTOR * B.dtype.element_ty.primitive_bitwidth // 8)
        at_c = tl.multiple_of(at_c, VECTOR * C.dtype.element_ty.primitive_bitwidth // 8)
    at_grad = grad + g * grad_group + start * grad_row + e
    at_z = z + start * z_row + e
    at_grad_u = grad_u + g * grad_u_group + start * grad_u_row + e
    at_grad_delta = grad_delta + g * grad_u_group + start * grad_u_row + e
    tokens = tl.num_programs(0).to(tl.int64) * length
    at_partial = partial + ((block * G + g) * tokens + start) * (2 * N) + n
    kept += ((image * tl.num_programs(1) + block) * G + g) * chunks * (BLOCK * N)

    carry = tl.zeros([BLOCK, N], tl.float32)
    grad_a = tl.zeros([BLOCK, N], tl.float32)
    grad_skip = tl.zeros([BLOCK], tl.float32)
    grad_offset = tl.zeros([BLOCK], tl.float32)
    for k in range(0, chunks):
        chunk = chunks - 1 - k
        i = chunk * CHUNK
        h = tl.load(kept + chunk * (BLOCK * N) + tile)
        hs, xs, dts, slopes = (h,), (), (), ()
        for j in tl.static_range(CHUNK):
            t = sign * tl.minimum(i + j, length - 1)
            x = tl.load(at_u + t * u_row).to(tl.float32)
            raw = tl.load(at_delta + t * delta_row).to(tl.float32)
            b = tl.load(at_b + t * b_row * VECTOR).to(tl.float32)
            dt, slope = softplus(raw + offset)
            xs, dts, slopes = xs + (x,), dts + (dt,), slopes + (slope,)  # noqa: RUF005
            h = tl.exp2(dt[:, None] * a) * h + (dt * x)[:, None] * b[None, :]
            hs = hs + (h,)  # noqa: RUF005
        for j in tl.static_range(CHUNK - 1, -1, -1):
            t = sign * tl.minimum(i + j, length - 1)
            stores = inside & (e < tl.where(i + j < length, width, 0))
            b = tl.load(at_b + t * b_row * VECTOR).to(tl.float32)
            c = tl.load(at_c + t * c_row * VECTOR).to(tl.float32)
            gy = tl.where(stores, tl.load(at_grad + t * grad_row).to(tl.float32), 0.0)
            if GATED:
                gate = tl.load(at_z + t * z_row).to(tl.float32)
                gy = gy * (1.0 / G) * gate * sigmoid(gate)
            x, dt = xs[j], dts[j]
            gh = gy[:, None] * c[None, :] + carry
            at = at_partial + t * (2 * N)
            there = n < tl.where(i + j < length, N, 0)
            tl.store(at, tl.sum(gh * (dt * x)[:, None], axis=0), mask=there)
            tl.store(at + N, tl.sum(gy[:, None] * hs[j + 1], axis=0), mask=there)
            grad_dx = tl.sum(gh * b[None, :], axis=1)
            carry = gh * tl.exp2(dt[:, None] * a)
            grad_exponent = carry * hs[j]
            grad_a += grad_exponent * dt[:, None]
            grad_raw = (tl.sum(grad_exponent * a, axis=1) * LN2 + grad_dx * x) * slopes[j]
            grad_skip += gy * x
            grad_offset += grad_raw
            grad_x = grad_dx * dt + gy * skip
            tl.store(at_grad_u + t * grad_u_row, grad_x.to(grad_u.dtype.element_ty), mask=stores)
            tl.store(at_grad_delta + t * grad_u_row, grad_raw.to(grad_delta.dtype.element_ty), mask=stores)
    at = sums + ((image * G + g) * width + e) * (N + 2)
    tl.store(at[:, None] + n[None, :], grad_a, mask=inside[:, None])
    tl.store(at + N, grad_skip, mask=inside)
    tl.store(at + N + 1, grad_offset, mask=inside)


@triton.jit(do_not_specialize=["tokens", "blocks"])
def _sum_blocks(
    partial, grad_B, grad_C, tokens, blocks, b_row, b_group, c_row, c_group, N: tl.constexpr, ROWS: tl.constexpr
):
    g = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = tl.arange(0, N)
    there = (row < tokens)[:, None] & (n < N)[None, :]
    b = tl.zeros([ROWS, N], tl.float32)
    c = tl.zeros([ROWS, N], tl.float32)
    for block in range(blocks):
        at = partial + ((block * tl.num_programs(1) + g) * tokens + row[:, None]) * (2 * N) + n[None, :]
        b += tl.load(at, mask=there, other=0.0)
        c += tl.load(at + N, mask=there, other=0.0)
    tl.store(grad_B + g * b_group + row[:, None] * b_row + n[None, :], b.to(grad_B.dtype.element_ty), mask=there)
    tl.store(grad_C + g * c_group + row[:, None] * c_row + n[None, :], c.to(grad_C.dtype.element_ty), mask=there)


def scan_backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, z: Tensor | None,
    reverse: Sequence[bool], grad_out: Tensor, grad_B: Tensor, grad_C: Tensor, grad_z: Tensor | None,
) -> ScanGradients:  # fmt: skip
    """See `Kernels.scan_backward`. The result is bit for bit reproducible: no sum uses atomics."""
    batch, length, groups, width = u.shape
    states = A.shape[2]
    block, vector = channel_block(states, width), vector_width(B, C)
    blocks, chunks = triton.cdiv(width, block), triton.cdiv(length, CHUNK)

    def scratch(*shape: int) -> Tensor:
        return u.new_empty(shape, dtype=torch.float32)

    kept = scratch(batch, blocks, groups, chunks, block, states)
    gated = scan_forward(u, delta, A, B, C, D, delta_bias, z, reverse, kept, grad_out, grad_z)
    gate = u if z is None else z
    grad_u = direction_first(batch, length, groups, width, u)
    grad_delta = direction_first(batch, length, groups, width, delta)
    partial = scratch(blocks, groups, batch * length, 2 * states)
    sums = scratch(batch, groups, width, states + 2)
    with on_device(u):
        _backward[(batch, blocks, groups)](
            u, delta, A.contiguous(), B, C, D.contiguous(), delta_bias.contiguous(), gate, grad_out, kept,
            grad_u, grad_delta, partial, sums, length, width, direction_bits(reverse), chunks,
            row_stride(u), u.stride(2), row_stride(delta), delta.stride(2),
            row_stride(B) // vector, B.stride(2) // vector, row_stride(C) // vector, C.stride(2) // vector,
            row_stride(gate), row_stride(grad_out), grad_out.stride(2) if z is None else 0,
            row_stride(grad_u), grad_u.stride(2),
            G=groups, N=states, GATED=z is not None, VECTOR=vector, BLOCK=block, CHUNK=CHUNK, num_warps=1,
        )  # fmt: skip
        rows = max(1, 1024 // states)
        _sum_blocks[(triton.cdiv(batch * length, rows), groups)](
            partial, grad_B, grad_C, batch * length, blocks,
            row_stride(grad_B), grad_B.stride(2), row_stride(grad_C), grad_C.stride(2), N=states, ROWS=rows,
        )  # fmt: skip
    totals = sums.sum(0)
    grad_A, grad_D, grad_bias = totals[..., :states], totals[..., states], totals[..., states + 1]
    return ScanGradients(gated, grad_u, grad_delta, grad_A, grad_D, grad_bias)
