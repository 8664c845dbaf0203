"""The naive twin of every backend: loops over time in float64, differentiable by autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from famba_core.ops.backend import Backend


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, *, reverse: Sequence[bool]
) -> Tensor:
    """Compute `ops.interface.selective_scan` in float64; the result has the dtype of u."""
    dtype = u.dtype
    u, delta, A, B, C, D, delta_bias = (x.double() for x in (u, delta, A, B, C, D, delta_bias))
    step = F.softplus(delta + delta_bias)
    directions = []
    for g, backwards in enumerate(reverse):
        times = range(u.shape[1])
        outputs = {}
        h = u.new_zeros(u.shape[0], u.shape[3], A.shape[2])
        for t in reversed(times) if backwards else times:
            decay = torch.exp(step[:, t, g, :, None] * A[g])
            h = decay * h + step[:, t, g, :, None] * B[:, t, g, None, :] * u[:, t, g, :, None]
            outputs[t] = (h * C[:, t, g, None, :]).sum(-1) + D[g] * u[:, t, g]
        directions.append(torch.stack([outputs[t] for t in times], dim=1))
    return torch.stack(directions, dim=2).to(dtype)


def causal_conv_silu(x: Tensor, weight: Tensor, bias: Tensor, *, reverse: Sequence[bool]) -> Tensor:
    """Compute `ops.interface.causal_conv_silu` in float64; the result has the dtype of x."""
    dtype = x.dtype
    x, weight, bias = x.double(), weight.double(), bias.double()
    length, taps = x.shape[1], weight.shape[2]
    directions = []
    for g, backwards in enumerate(reverse):
        outputs = []
        for t in range(length):
            value = bias[g].expand(x.shape[0], -1)
            for k in range(taps):
                source = t + (taps - 1 - k) if backwards else t - (taps - 1 - k)
                if 0 <= source < length:
                    value = value + weight[g, :, k] * x[:, source]
            outputs.append(value * torch.sigmoid(value))
        directions.append(torch.stack(outputs, dim=1))
    return torch.stack(directions, dim=2).to(dtype)


BACKEND = Backend(name="reference", selective_scan=selective_scan, causal_conv_silu=causal_conv_silu, traceable=True)
