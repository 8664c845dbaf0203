"""The mixer of a Vision Mamba layer: its parameters, and the layer composed of a scan and a convolution."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from famba_core.models.vim.constants import CONV_WIDTH, REVERSE
from famba_core.ops.interface import causal_conv_silu, selective_scan


class BiMambaMixer(nn.Module):
    """Two selective scans over one sequence, forward and backward, with shared input and output projections.

    Parameter names and shapes are those of the official Vim weights; names of the backward direction contain "_b".
    """

    def __init__(self, width: int, state_size: int, num_layers: int):
        """width: D; state_size: N; num_layers: depth of the model, which scales the initial output projection."""
        super().__init__()
        inner = 2 * width
        self.rank = math.ceil(width / 16)
        self.state_size = state_size
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, CONV_WIDTH, groups=inner)
        self.conv1d_b = nn.Conv1d(inner, inner, CONV_WIDTH, groups=inner)
        self.x_proj = nn.Linear(inner, self.rank + 2 * state_size, bias=False)
        self.x_proj_b = nn.Linear(inner, self.rank + 2 * state_size, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.dt_proj_b = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, state_size))
        self.A_b_log = nn.Parameter(torch.empty(inner, state_size))
        self.D = nn.Parameter(torch.ones(inner))
        self.D_b = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.reset_parameters(num_layers)

    @torch.no_grad()
    def reset_parameters(self, num_layers: int) -> None:
        """Initialise as Mamba does: A = -1..-N in every channel, step sizes log-uniform in [0.001, 0.1]."""
        for A_log in (self.A_log, self.A_b_log):
            A_log.copy_(torch.arange(1, self.state_size + 1).log().expand_as(A_log))
        for dt_proj in (self.dt_proj, self.dt_proj_b):
            nn.init.uniform_(dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
            step = torch.empty_like(dt_proj.bias).uniform_(math.log(1e-3), math.log(1e-1)).exp_()
            dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
        nn.init.kaiming_uniform_(self.out_proj.weight, a=math.sqrt(5))
        self.out_proj.weight /= math.sqrt(num_layers)

    def forward(self, hidden: Tensor, backend: str = "auto") -> Tensor:
        """Mix hidden [B, L, D] -> [B, L, D], with the scan and the convolution of the named backend."""
        x, z = self.in_proj(hidden).chunk(2, dim=-1)
        conv = _pair(self.conv1d.weight, self.conv1d_b.weight).squeeze(2)
        u = causal_conv_silu(
            x, conv, _pair(bias_of(self.conv1d), bias_of(self.conv1d_b)), reverse=REVERSE, backend=backend
        )
        steps_and_states = _project(u, self.x_proj, self.x_proj_b)
        dt, B, C = steps_and_states.split((self.rank, self.state_size, self.state_size), dim=-1)
        y = selective_scan(
            u,
            _project(dt, self.dt_proj, self.dt_proj_b),
            -torch.exp(_pair(self.A_log, self.A_b_log)),
            B,
            C,
            _pair(self.D, self.D_b),
            _pair(self.dt_proj.bias, self.dt_proj_b.bias),
            reverse=REVERSE,
            backend=backend,
        )
        # both directions have the same gate, so it is applied to their mean
        mixed: Tensor = self.out_proj(y.mean(dim=2) * F.silu(z))
        return mixed


def _pair(forwards: Tensor, backwards: Tensor) -> Tensor:
    return torch.stack((forwards, backwards))


def bias_of(conv: nn.Conv1d) -> Tensor:
    """Return the convolution's bias, which it must have."""
    assert conv.bias is not None
    return conv.bias


def _project(x: Tensor, forwards: nn.Linear, backwards: nn.Linear) -> Tensor:
    """Apply each direction's own linear map, without bias: [B, L, 2, in] -> [B, L, 2, out]."""
    return torch.einsum("blgi,goi->blgo", x, _pair(forwards.weight, backwards.weight))
