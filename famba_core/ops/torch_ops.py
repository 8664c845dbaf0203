"""The scan and the convolution in plain PyTorch, on any device, without a compiler.

The scan is one small operation per time step and pass, with gradients written by hand. Only the inputs are saved for
backward. The states are computed again, for a few images of one direction at a time and in the same buffers: they
stay in the cache, never exist for the whole batch, and need no new memory pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from famba_core.device import without_autocast
from famba_core.ops.autograd import first_order
from famba_core.ops.backend import Backend
from famba_core.ops.kernels import Reverse

# Elements of one buffer [b, L, N, E]. On the CPU they are enough to hide the overhead of the calls, and few enough for
# the caches. On a GPU launches cost the most, so the whole batch goes into one buffer.
BLOCK_ELEMENTS = {"cpu": 1 << 19}
MOST_ELEMENTS = 1 << 28


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, *, reverse: Sequence[bool]
) -> Tensor:
    """Compute `ops.interface.selective_scan` in the dtype of A."""
    with without_autocast(u.device):  # the states need A's precision
        out: Tensor = _Scan.apply(u, delta, A, B, C, D, delta_bias, tuple(reverse))
    return out


def causal_conv_silu(x: Tensor, weight: Tensor, bias: Tensor, *, reverse: Sequence[bool]) -> Tensor:
    """Compute `ops.interface.causal_conv_silu` with the convolutions of torch."""
    channels_first, past = x.transpose(1, 2), weight.shape[2] - 1
    directions = []
    for g, backwards in enumerate(reverse):
        # a causal convolution of the reversed sequence looks ahead in the sequence, with a reversed kernel
        padding, kernel = ((0, past), weight[g].flip(-1)) if backwards else ((past, 0), weight[g])
        padded = F.pad(channels_first, padding)
        directions.append(F.conv1d(padded, kernel.unsqueeze(1), bias[g], groups=x.shape[2]).transpose(1, 2))
    return F.silu(torch.stack(directions, dim=2))


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor,
        reverse: Reverse,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(u, delta, A, B, C, D, delta_bias)
        ctx.reverse = reverse
        y = torch.empty_like(u)
        for block, g, rate, (h, decay) in _blocks(u, A, buffers=2):
            x, dt, b, c = (v[block].to(A.dtype) for v in (u, delta, B, C))
            dt = F.softplus(dt + delta_bias[g])
            _fill_states(dt * x, dt, rate, b, reverse[g], h, decay)
            y[block] = h.mul_(c.unsqueeze(-1)).sum(-2).addcmul_(x, D[g])
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, delta_bias = ctx.saved_tensors
        grad_u, grad_delta, grad_B, grad_C = (torch.empty_like(v) for v in (u, delta, B, C))
        grad_A, grad_D, grad_bias = (torch.zeros_like(v) for v in (A, D, delta_bias))
        for block, g, rate, (h, decay, gh, product) in _blocks(u, A, buffers=4):
            x, raw, b, c, gy = (v[block].to(A.dtype) for v in (u, delta, B, C, grad_y))
            raw = raw + delta_bias[g]
            dt = F.softplus(raw)
            dtx = dt * x
            _fill_states(dtx, dt, rate, b, ctx.reverse[g], h, decay)
            # the gradient of a state comes from its own output and, through the decay, from the next state
            torch.mul(c.unsqueeze(-1), gy.unsqueeze(-2), out=gh)
            gh_t, decay_t = _steps(gh, ctx.reverse[g]), _steps(decay, ctx.reverse[g])
            for t in range(len(gh_t) - 2, -1, -1):
                gh_t[t].addcmul_(decay_t[t + 1], gh_t[t + 1])
            grad_C[block] = torch.mul(h, gy.unsqueeze(-2), out=product).sum(-1)
            grad_B[block] = torch.mul(gh, dtx.unsqueeze(-2), out=product).sum(-1)
            gdtx = torch.mul(gh, b.unsqueeze(-1), out=product).sum(-2)
            # gradient of the decay's exponent dt A; it is zero in the first step, which has no previous state
            later, earlier = (slice(0, -1), slice(1, None)) if ctx.reverse[g] else (slice(1, None), slice(0, -1))
            gexp = gh[:, later].mul_(decay[:, later]).mul_(h[:, earlier])
            gdt = gdtx * x
            gdt[:, later] += torch.mul(gexp, rate, out=product[:, later]).sum(-2)
            grad_A[g] += gexp.mul_(dt[:, later].unsqueeze(-2)).sum((0, 1)).T
            grad_D[g] += (gy * x).sum((0, 1))
            grad_u[block] = gdtx.mul_(dt).addcmul_(gy, D[g])
            graw = gdt.mul_(torch.sigmoid(raw))
            grad_bias[g] += graw.sum((0, 1))
            grad_delta[block] = graw
        return grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias, None


def _fill_states(dtx: Tensor, dt: Tensor, rate: Tensor, b: Tensor, backwards: bool, h: Tensor, decay: Tensor) -> None:
    """Write exp(dt A) to decay and the states h_t = decay_t h_{t-1} + dt_t B_t x_t to h, both [b, L, N, E]."""
    torch.mul(dt.unsqueeze(-2), rate, out=decay).exp_()
    torch.mul(b.unsqueeze(-1), dtx.unsqueeze(-2), out=h)
    h_t, decay_t = _steps(h, backwards), _steps(decay, backwards)
    for t in range(1, len(h_t)):
        h_t[t].addcmul_(decay_t[t], h_t[t - 1])


def _steps(x: Tensor, backwards: bool) -> tuple[Tensor, ...]:
    """Return views of x [b, L, ...] at each time, in the order of the direction."""
    return x.unbind(1)[::-1] if backwards else x.unbind(1)


def _blocks(u: Tensor, A: Tensor, buffers: int) -> Iterator[tuple[tuple[Any, ...], int, Tensor, list[Tensor]]]:
    """Cut the work into blocks of a few images of one direction.

    Yields the index of the block in [B, L, G, ...], the direction, its A as [N, E] (channels last, as vector units
    need them) and `buffers` tensors [b, L, N, E], which share their memory with those of all other blocks.
    """
    batch, length, groups, width = u.shape
    state_size = A.shape[2]
    per_image = length * state_size * width
    most = BLOCK_ELEMENTS.get(u.device.type, MOST_ELEMENTS) // max(1, per_image)
    images = max(1, min(batch, most))
    memory = [A.new_empty(images * per_image) for _ in range(buffers)]
    for g in range(groups):
        rate = A[g].T.contiguous()
        for start in range(0, batch, images):
            rows = slice(start, start + images)
            b = min(images, batch - start)
            views = [flat[: b * per_image].view(b, length, state_size, width) for flat in memory]
            yield (rows, slice(None), g), g, rate, views


BACKEND = Backend(name="torch", selective_scan=selective_scan, causal_conv_silu=causal_conv_silu)
