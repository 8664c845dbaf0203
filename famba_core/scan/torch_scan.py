"""The scan in plain PyTorch: one small operation per time step and pass, gradients by hand, no compiler needed.

Only the inputs are kept for backward. The states are computed again, for a few images at a time and in the same
buffers, so that they stay in the cache, never exist for the whole batch, and cost no fresh memory pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of one [L, b, G, N, E] buffer: large enough to hide the call overhead, small enough for the caches.
BLOCK_ELEMENTS = 1 << 20


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, *, reverse: Sequence[bool]
) -> Tensor:
    """See `famba_core.scan.selective_scan`."""
    with torch.autocast(u.device.type, enabled=False):  # the states need A's precision
        out: Tensor = _Scan.apply(u, delta, A, B, C, D, delta_bias, tuple(reverse))
    return out


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor,
                reverse: tuple[bool, ...]) -> Tensor:
        ctx.save_for_backward(u, delta, A, B, C, D, delta_bias)
        ctx.reverse = reverse
        y = torch.empty_like(u)
        decay_rate = A.transpose(1, 2).contiguous()  # [G, N, E]: the channels last, where vector units want them
        for images, (h, decay) in _blocks(u, A, buffers=2):
            ut, dt, Bt, Ct = (_time_major(x[images].to(A.dtype), reverse) for x in (u, delta, B, C))
            dt = F.softplus(dt + delta_bias)
            _fill_states(ut * dt, dt, decay_rate, Bt, h, decay)
            yt = torch.matmul(Ct.unsqueeze(-2), h).squeeze(-2).addcmul_(ut, D)
            y[images] = _batch_major(yt, reverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, delta_bias = ctx.saved_tensors
        reverse = ctx.reverse
        decay_rate = A.transpose(1, 2).contiguous()
        grad_u, grad_delta, grad_B, grad_C = (torch.empty_like(x) for x in (u, delta, B, C))
        grad_rate, grad_D, grad_bias = (torch.zeros_like(x) for x in (decay_rate, D, delta_bias))
        for images, (h, decay, gh, product) in _blocks(u, A, buffers=4):
            ut, raw, Bt, Ct, gy = (_time_major(x[images].to(A.dtype), reverse) for x in (u, delta, B, C, grad_y))
            raw = raw + delta_bias
            dt = F.softplus(raw)
            dtu = dt * ut
            _fill_states(dtu, dt, decay_rate, Bt, h, decay)
            # gradient with respect to each state: from its output, and from the state that follows it
            torch.mul(Ct.unsqueeze(-1), gy.unsqueeze(-2), out=gh)
            gh_t, decay_t = gh.unbind(0), decay.unbind(0)
            for t in range(len(gh_t) - 2, -1, -1):
                gh_t[t].addcmul_(decay_t[t + 1], gh_t[t + 1])
            grad_C[images] = _batch_major(torch.mul(h, gy.unsqueeze(-2), out=product).sum(-1), reverse)
            grad_B[images] = _batch_major(torch.mul(gh, dtu.unsqueeze(-2), out=product).sum(-1), reverse)
            gdtu = torch.matmul(Bt.unsqueeze(-2), gh).squeeze(-2)
            # exponent of the decay: zero at the first step, which has no state before it
            gexp = gh[1:].mul_(decay[1:]).mul_(h[:-1])
            gdt = gdtu * ut
            gdt[1:] += torch.mul(gexp, decay_rate, out=product[1:]).sum(-2)
            grad_rate += gexp.mul_(dt[1:].unsqueeze(-2)).sum((0, 1))
            grad_D += (gy * ut).sum((0, 1))
            grad_u[images] = _batch_major(gdtu.mul_(dt).addcmul_(gy, D), reverse)
            gdt.mul_(torch.sigmoid(raw))
            grad_bias += gdt.sum((0, 1))
            grad_delta[images] = _batch_major(gdt, reverse)
        return grad_u, grad_delta, grad_rate.transpose(1, 2), grad_B, grad_C, grad_D, grad_bias, None


def _fill_states(dtu: Tensor, dt: Tensor, decay_rate: Tensor, B: Tensor, h: Tensor, decay: Tensor) -> None:
    """Write all states into h and exp(dt A) into decay, both [L, b, G, N, E]; h_t = decay_t h_{t-1} + dt_t B_t u_t."""
    torch.mul(dt.unsqueeze(-2), decay_rate, out=decay).exp_()
    torch.mul(B.unsqueeze(-1), dtu.unsqueeze(-2), out=h)
    h_t, decay_t = h.unbind(0), decay.unbind(0)
    for t in range(1, len(h_t)):
        h_t[t].addcmul_(decay_t[t], h_t[t - 1])


def _blocks(u: Tensor, A: Tensor, buffers: int) -> Iterator[tuple[slice, list[Tensor]]]:
    """A few images at a time, with `buffers` tensors [L, b, G, N, E] that every block uses again."""
    batch, length, groups, width = u.shape
    state_size = A.shape[2]
    per_image = length * groups * state_size * width
    images = min(batch, max(1, BLOCK_ELEMENTS // max(1, per_image)))
    memory = [A.new_empty(images * per_image) for _ in range(buffers)]
    for start in range(0, batch, images):
        b = min(images, batch - start)
        shape = (length, b, groups, state_size, width)
        yield slice(start, start + b), [flat[: b * per_image].view(shape) for flat in memory]


def _time_major(x: Tensor, reverse: tuple[bool, ...]) -> Tensor:
    """[b, L, G, ...] -> [L, b, G, ...], the directions that run backwards turned round."""
    return _turn(x.transpose(0, 1), reverse)


def _batch_major(x: Tensor, reverse: tuple[bool, ...]) -> Tensor:
    return _turn(x, reverse).transpose(0, 1)


def _turn(x: Tensor, reverse: tuple[bool, ...]) -> Tensor:
    """Flip the first axis, time, of each direction that runs backwards."""
    if not any(reverse):
        return x.contiguous()
    if all(reverse):
        return x.flip(0)
    return torch.stack([x[:, :, g].flip(0) if backwards else x[:, :, g] for g, backwards in enumerate(reverse)], dim=2)
