"""The selective scan in Triton, forward, with the gate after it.

A program is one warp. It walks over the tokens of one image for a block of channels, with all their states in
registers. A lane holds a channel with all its N states, so lanes exchange nothing. The compiler chooses this layout of
the tile [N, channels] if loads and stores run along the channels and cannot be widened: so A is transposed, and
`tl.multiple_of(..., [1, 1])` declares no alignment.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from famba_core.ops.triton.math import LOG2E, direction_bits, on_device, row_stride, sigmoid, softplus, vector_width

STATES_OF_A_WARP = 512
CHUNK = 4  # tokens whose inputs are loaded before the first of them is used


def channel_block(states: int, width: int) -> int:
    """Return the number of channels of one program."""
    return min(STATES_OF_A_WARP // states, 128, triton.next_power_of_2(width))


@triton.jit(do_not_specialize=["length", "bits", "b_row", "b_group", "c_row", "c_group"])
def _forward(
    u, delta, A, B, C, D, delta_bias, z, out, total, kept, grad, grad_z,
    length, width, bits,
    u_row, u_group, delta_row, delta_group, b_row, b_group, c_row, c_group, z_row, out_row, out_group,
    grad_row, grad_z_row,
    G: tl.constexpr, N: tl.constexpr, GATED: tl.constexpr, KEEP: tl.constexpr, VECTOR: tl.constexpr,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = e < width
    known = tl.minimum(e, width - 1)  # values loaded beyond the last channel or token are never stored
    n = tl.arange(0, N)
    tile = tl.arange(0, BLOCK)[None, :] * N + n[:, None]
    # The gate multiplies the mean over the directions. With a gate, one program walks all of them and keeps their sum,
    # which saves one launch and two passes over y. B = 128 images of 384 channels are still 1536 warps, 3 for each of
    # the 528 schedulers of an H200, and each lane has 16 independent states.
    first = 0 if GATED else tl.program_id(2)
    last = G if GATED else first + 1
    for g in range(first, last):
        at_a = A + (g * N + n[:, None]) * width + e[None, :]
        a = tl.load(tl.multiple_of(at_a, [1, 1]), mask=inside[None, :], other=0.0) * LOG2E
        skip = tl.load(D + g * width + known)
        offset = tl.load(delta_bias + g * width + known)
        backwards = (bits >> g) & 1
        start = image * length + backwards * (length - 1)
        sign = 1 - 2 * backwards
        at_u = u + g * u_group + start * u_row + known
        at_delta = delta + g * delta_group + start * delta_row + known
        at_b = B + VECTOR * (g * b_group + start * b_row) + n
        at_c = C + VECTOR * (g * c_group + start * c_row) + n
        if VECTOR > 1:
            at_b = tl.multiple_of(at_b, VECTOR * B.dtype.element_ty.primitive_bitwidth // 8)
            at_c = tl.multiple_of(at_c, VECTOR * C.dtype.element_ty.primitive_bitwidth // 8)
        at_out = out + g * out_group + start * out_row + known
        at_total = total + start * width + known
        at_z = z + start * z_row + known
        h = tl.zeros([N, BLOCK], tl.float32)
        for i in range(0, length, CHUNK):
            if KEEP:
                number = ((image * tl.num_programs(1) + tl.program_id(1)) * G + g) * tl.cdiv(length, CHUNK) + i // CHUNK
                tl.store(kept + number * (BLOCK * N) + tile, h)
            xs, raws, bs, cs = (), (), (), ()
            for j in tl.static_range(CHUNK):
                t = sign * tl.minimum(i + j, length - 1)
                xs = xs + (tl.load(at_u + t * u_row),)  # noqa: RUF005
                raws = raws + (tl.load(at_delta + t * delta_row),)  # noqa: RUF005
                bs = bs + (tl.load(at_b + t * b_row * VECTOR),)  # noqa: RUF005
                cs = cs + (tl.load(at_c + t * c_row * VECTOR),)  # noqa: RUF005
            for j in tl.static_range(CHUNK):
                t = sign * tl.minimum(i + j, length - 1)
                stores = inside & (e < tl.where(i + j < length, width, 0))
                x = xs[j].to(tl.float32)
                dt, _ = softplus(raws[j].to(tl.float32) + offset)
                h = tl.exp2(dt[None, :] * a) * h + (dt * x)[None, :] * bs[j].to(tl.float32)[:, None]
                y = tl.sum(h * cs[j].to(tl.float32)[:, None], axis=0) + skip * x
                if GATED:
                    if g > 0:
                        y += tl.load(at_total + t * width)
                    if g < G - 1:
                        tl.store(at_total + t * width, y, mask=stores)
                    else:
                        y = y * (1.0 / G)
                        gate = tl.load(at_z + t * z_row).to(tl.float32)
                        q = sigmoid(gate)
                        tl.store(at_out + t * out_row, (y * gate * q).to(out.dtype.element_ty), mask=stores)
                        if KEEP:
                            at = start + t
                            pull = tl.load(grad + at * grad_row + known).to(tl.float32)
                            pull = pull * y * q * (1.0 + gate * (1.0 - q))
                            tl.store(grad_z + at * grad_z_row + known, pull.to(grad_z.dtype.element_ty), mask=stores)
                elif not KEEP:
                    tl.store(at_out + t * out_row, y.to(out.dtype.element_ty), mask=stores)
        tl.debug_barrier()  # the next direction reads the totals of this one


def scan_forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, z: Tensor | None,
    reverse: Sequence[bool], kept: Tensor | None = None, grad_out: Tensor | None = None, grad_z: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """See `Kernels.scan_forward`. For backward, also write states and the gradient of z.

    Args:
        kept: states before every chunk, written [B, blocks of channels, G, chunks, channels, N]; without a gate, the
            result is not computed then.
        grad_out: with `kept` and a gate, the gradient of the result.
        grad_z: written if grad_out is given.
    """
    batch, length, groups, width = u.shape
    states = A.shape[2]
    gated = z is not None
    out = u.new_empty((batch, length, width) if gated else (batch, length, groups, width))
    total = out.new_empty(out.shape, dtype=torch.float32) if gated and groups > 1 else u
    gate = u if z is None else z
    grad, grad_gate = u if grad_out is None else grad_out, u if grad_z is None else grad_z
    block, vector = channel_block(states, width), vector_width(B, C)
    grid = (batch, triton.cdiv(width, block), 1 if gated else groups)
    with on_device(u):
        _forward[grid](
            u, delta, A.transpose(1, 2).contiguous(), B, C, D.contiguous(), delta_bias.contiguous(), gate, out, total,
            u if kept is None else kept, grad, grad_gate, length, width, direction_bits(reverse),
            row_stride(u), u.stride(2), row_stride(delta), delta.stride(2),
            row_stride(B) // vector, B.stride(2) // vector, row_stride(C) // vector, C.stride(2) // vector,
            row_stride(gate), row_stride(out), 0 if gated else out.stride(2), row_stride(grad), row_stride(grad_gate),
            G=groups, N=states, GATED=gated, KEEP=kept is not None, VECTOR=vector, BLOCK=block, CHUNK=CHUNK,
            num_warps=1,
        )  # fmt: skip
    return out
