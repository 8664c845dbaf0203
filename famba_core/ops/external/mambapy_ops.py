"""The scan of mambapy (PyPI), for comparison: its parallel scan in PyTorch, called as mambapy's own model calls it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from famba_core.ops import torch_ops

causal_conv_silu = torch_ops.causal_conv_silu  # mambapy has none of its own: it calls torch's


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, *, reverse: Sequence[bool]
) -> Tensor:
    """See `famba_core.ops.interface.selective_scan`. Raises ImportError where mambapy is not installed."""
    pscan = importlib.import_module("mambapy.pscan").pscan
    directions = []
    for g, backwards in enumerate(reverse):
        x, step, b, c = (v[:, :, g].flip(1) if backwards else v[:, :, g] for v in (u, delta, B, C))
        step = F.softplus(step + delta_bias[g])
        decay = torch.exp(step.unsqueeze(-1) * A[g])
        states = pscan(decay, (step.unsqueeze(-1) * b.unsqueeze(2)) * x.unsqueeze(-1))
        y = (states @ c.to(states.dtype).unsqueeze(-1)).squeeze(3) + D[g] * x
        directions.append(y.flip(1) if backwards else y)
    out: Tensor = torch.stack(directions, dim=2).to(u.dtype)
    return out
