"""The causal depthwise convolution with SiLU in Triton, for all directions in one launch.

Forward, a program computes a tile of tokens and channels of one image; each tap is a shifted load of the same rows from
the L1 cache. Backward, the gradient of each output is needed at four tokens: a program is one warp that walks over
consecutive tokens with the last three inputs and gradients in registers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from famba_core.ops.kernels import TAPS
from famba_core.ops.triton.math import direction_bits, direction_first, on_device, row_stride, sigmoid

FORWARD_TOKENS = 32
BACKWARD_TOKENS = 61  # with the three tokens after them, a multiple of CHUNK
CHUNK = 4  # tokens whose inputs are loaded before the first of them is used
CHANNELS = 64


@triton.jit(do_not_specialize=["length", "bits"])
def _forward(
    x, weight, bias, out, length, width, bits, x_row, out_row, out_group,
    G: tl.constexpr, TAPS: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    base = tl.program_id(0).to(tl.int64) * length
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    t = tl.program_id(2) * TOKENS + tl.arange(0, TOKENS)
    inside = e < width
    there = (t < length)[:, None] & inside[None, :]
    for g in range(G):
        sign = 1 - 2 * ((bits >> g) & 1)
        value = tl.zeros([TOKENS, BLOCK], tl.float32)
        value += tl.load(bias + g * width + e, mask=inside, other=0.0)[None, :]
        for k in tl.static_range(TAPS):
            w = tl.load(weight + (g * width + e) * TAPS + k, mask=inside, other=0.0)
            source = t - sign * (TAPS - 1 - k)
            valid = ((source >= 0) & (source < length))[:, None] & inside[None, :]
            at = x + (base + source)[:, None] * x_row + e[None, :]
            value += w[None, :] * tl.load(at, mask=valid, other=0.0).to(tl.float32)
        at = out + g * out_group + (base + t)[:, None] * out_row + e[None, :]
        tl.store(at, (value * sigmoid(value)).to(out.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["length", "bits"])
def _backward(
    x, weight, bias, grad_u, grad_x, total, sums, length, width, bits,
    x_row, grad_u_row, grad_u_group, grad_x_row,
    G: tl.constexpr, TAPS: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    tl.static_assert(TAPS == 4)
    base = tl.program_id(0).to(tl.int64) * length
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = e < width
    number = tl.program_id(0).to(tl.int64) * tl.num_programs(2) + tl.program_id(2)
    count = tl.minimum(TOKENS, length - tl.program_id(2) * TOKENS)
    for g in range(G):
        backwards = (bits >> g) & 1
        sign = 1 - 2 * backwards
        first = tl.program_id(2) * TOKENS + backwards * (count - 1)
        offset = tl.load(bias + g * width + e, mask=inside, other=0.0)
        at_w = weight + (g * width + e) * TAPS
        w0 = tl.load(at_w, mask=inside, other=0.0)
        w1 = tl.load(at_w + 1, mask=inside, other=0.0)
        w2 = tl.load(at_w + 2, mask=inside, other=0.0)
        w3 = tl.load(at_w + 3, mask=inside, other=0.0)
        at_x = x + base * x_row + e
        at_grad = grad_u + g * grad_u_group + base * grad_u_row + e
        before = ()
        for k in tl.static_range(TAPS - 1):
            t = first + sign * (k + 1 - TAPS)
            there = e < tl.where((t >= 0) & (t < length), width, 0)
            before = before + (tl.load(at_x + t * x_row, mask=there, other=0.0).to(tl.float32),)  # noqa: RUF005
        x0, x1, x2 = before[0], before[1], before[2]
        g0 = tl.zeros([BLOCK], tl.float32)
        g1 = tl.zeros([BLOCK], tl.float32)
        g2 = tl.zeros([BLOCK], tl.float32)
        sum0 = tl.zeros([BLOCK], tl.float32)
        sum1 = tl.zeros([BLOCK], tl.float32)
        sum2 = tl.zeros([BLOCK], tl.float32)
        sum3 = tl.zeros([BLOCK], tl.float32)
        sum_bias = tl.zeros([BLOCK], tl.float32)
        # a token contributes to its own output and the next three, so its gradient is complete three tokens later
        for i in range(0, count + TAPS - 1, CHUNK):
            xs, grads = (), ()
            for j in tl.static_range(CHUNK):
                t = first + sign * (i + j)
                there = e < tl.where((t >= 0) & (t < length), width, 0)
                xs = xs + (tl.load(at_x + t * x_row, mask=there, other=0.0),)  # noqa: RUF005
                grads = grads + (tl.load(at_grad + t * grad_u_row, mask=there, other=0.0),)  # noqa: RUF005
            for j in tl.static_range(CHUNK):
                x3 = xs[j].to(tl.float32)
                value = offset + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3
                q = sigmoid(value)
                g3 = grads[j].to(tl.float32) * q * (1.0 + value * (1.0 - q))
                own = tl.where(i + j < count, g3, 0.0)
                sum0 += own * x0
                sum1 += own * x1
                sum2 += own * x2
                sum3 += own * x3
                sum_bias += own
                gx = w3 * g0 + w2 * g1 + w1 * g2 + w0 * g3
                done = i + j - (TAPS - 1)
                row = base + first + sign * done
                stores = e < tl.where((done >= 0) & (done < count), width, 0)
                if g > 0:
                    gx += tl.load(total + row * width + e, mask=stores, other=0.0)
                if g < G - 1:
                    tl.store(total + row * width + e, gx, mask=stores)
                else:
                    tl.store(grad_x + row * grad_x_row + e, gx.to(grad_x.dtype.element_ty), mask=stores)
                x0, x1, x2, g0, g1, g2 = x1, x2, x3, g1, g2, g3
        at = sums + (number * G + g) * (TAPS + 1) * width + e
        tl.store(at, sum0, mask=inside)
        tl.store(at + width, sum1, mask=inside)
        tl.store(at + 2 * width, sum2, mask=inside)
        tl.store(at + 3 * width, sum3, mask=inside)
        tl.store(at + TAPS * width, sum_bias, mask=inside)
        tl.debug_barrier()  # the next direction reads the totals of this one


def conv_forward(x: Tensor, weight: Tensor, bias: Tensor, reverse: Sequence[bool]) -> Tensor:
    """See `Kernels.conv_forward`; the result is stored direction by direction."""
    weight, bias = weight.contiguous(), bias.contiguous()
    batch, length, width = x.shape
    out = direction_first(batch, length, len(reverse), width, x)
    block = min(CHANNELS, triton.next_power_of_2(width))
    grid = (batch, triton.cdiv(width, block), triton.cdiv(length, FORWARD_TOKENS))
    with on_device(x):
        _forward[grid](
            x, weight, bias, out, length, width, direction_bits(reverse), row_stride(x), row_stride(out),
            out.stride(2), G=len(reverse), TAPS=TAPS, TOKENS=FORWARD_TOKENS, BLOCK=block, num_warps=4,
        )  # fmt: skip
    return out


def conv_backward(
    x: Tensor, weight: Tensor, bias: Tensor, reverse: Sequence[bool], grad_u: Tensor, grad_x: Tensor
) -> tuple[Tensor, Tensor]:
    """See `Kernels.conv_backward`."""
    weight, bias = weight.contiguous(), bias.contiguous()
    batch, length, width = x.shape
    block = min(CHANNELS, triton.next_power_of_2(width))
    grid = (batch, triton.cdiv(width, block), triton.cdiv(length, BACKWARD_TOKENS))
    sums = x.new_empty(grid[0] * grid[2], len(reverse), TAPS + 1, width, dtype=torch.float32)
    total = x.new_empty(x.shape, dtype=torch.float32) if len(reverse) > 1 else grad_x
    with on_device(x):
        _backward[grid](
            x, weight, bias, grad_u, grad_x, total, sums, length, width, direction_bits(reverse), row_stride(x),
            row_stride(grad_u), grad_u.stride(2), row_stride(grad_x),
            G=len(reverse), TAPS=TAPS, TOKENS=BACKWARD_TOKENS, BLOCK=block, CHUNK=CHUNK,
            num_warps=1,
        )  # fmt: skip
    totals = sums.sum(0)
    return totals[:, :TAPS].transpose(1, 2), totals[:, TAPS]
