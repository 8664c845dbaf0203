"""The parallel scan of mambapy (PyPI) in PyTorch, called as the model of mambapy calls it, for comparison."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from famba_core.ops.backend import Backend
from famba_core.ops.torch_ops import causal_conv_silu


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, *, reverse: Sequence[bool]
) -> Tensor:
    """Compute `ops.interface.selective_scan` in the dtype of A. Raises ImportError if mambapy is not installed."""
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


# mambapy has no convolution of its own: it calls that of torch
BACKEND = Backend(name="mambapy", selective_scan=selective_scan, causal_conv_silu=causal_conv_silu)
