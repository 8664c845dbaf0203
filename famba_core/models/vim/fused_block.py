"""A layer as one autograd function over a backend's kernels. Its backward recomputes what is cheap to compute."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from famba_core.config import ConfigError
from famba_core.fusion.matching import Merge
from famba_core.models.vim.constants import NORM_EPS, REVERSE
from famba_core.ops.autograd import first_order
from famba_core.ops.kernels import Kernels


class BlockWeights(NamedTuple):
    """A layer's parameters in the order of the autograd function, the backward direction (_b) after the forward one."""

    norm: Tensor  # [D]
    in_proj: Tensor  # [2E, D]
    conv: Tensor  # [E, 1, taps]
    conv_b: Tensor
    conv_bias: Tensor  # [E]
    conv_bias_b: Tensor
    x_proj: Tensor  # [R + 2N, E]
    x_proj_b: Tensor
    dt_proj: Tensor  # [E, R]
    dt_proj_b: Tensor
    dt_bias: Tensor  # [E]
    dt_bias_b: Tensor
    A_log: Tensor  # [E, N]
    A_log_b: Tensor
    D: Tensor  # [E]
    D_b: Tensor
    out_proj: Tensor  # [D, E]


def fused_block(
    residual: Tensor, merge: Merge | None, weights: BlockWeights, kernels: Kernels, *, recompute: bool
) -> Tensor:
    """Compute merge(residual) + mixer(merge(norm(residual))).

    Args:
        residual: [B, L, D] float32.
        merge: the layer's fusion, or None.
        recompute: keep only the residual for backward; otherwise also x, z, the low-rank steps, B and C.

    Under autocast, activations between the kernels have its dtype. Returns [B, L - r, D] float32. Raises ConfigError
    for autocast to anything but bfloat16.
    """
    device = residual.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    if dtype not in (torch.float32, torch.bfloat16):
        raise ConfigError.of("precision", f"the kernels do not support autocast to {dtype}; choose torch.bfloat16")
    target, share, length = merge or (None, None, residual.shape[1])
    with torch.autocast(device, enabled=False):
        residual = residual.contiguous()  # required by the kernels
        out: Tensor = _FusedBlock.apply(residual, target, share, length, kernels, recompute, dtype, *weights)
    return out


class _Directions:
    """Stacked weights of both directions, in the dtypes that kernels and matrix products need."""

    def __init__(self, w: BlockWeights, dtype: torch.dtype):
        # kernels need the channels last in memory
        self.conv = torch.cat((w.conv, w.conv_b), 1).permute(1, 2, 0).contiguous().transpose(1, 2)  # [G, E, taps]
        self.conv_bias = torch.stack((w.conv_bias, w.conv_bias_b))
        self.x_proj = torch.stack((w.x_proj, w.x_proj_b)).to(dtype)
        self.dt_proj = torch.stack((w.dt_proj, w.dt_proj_b)).to(dtype)
        self.dt_bias = torch.stack((w.dt_bias, w.dt_bias_b))
        self.A = torch.stack((w.A_log.t(), w.A_log_b.t())).exp_().neg_().transpose(1, 2)  # [G, E, N]
        self.D = torch.stack((w.D, w.D_b))
        self.rank, self.states = w.dt_proj.shape[1], w.A_log.shape[1]


def _project_in(hidden: Tensor, weight: Tensor) -> Tensor:
    """Project [B, L, D] to x and z, one tensor [B, L, 2E]."""
    return torch.mm(hidden.flatten(0, 1), weight.to(hidden.dtype).t()).view(*hidden.shape[:2], len(weight))


def _project_low(u: Tensor, x_proj: Tensor) -> Tensor:
    """Project [B, L, G, E] to the low-rank steps, B and C: [G, B L, R + 2N]."""
    return _products(_by_direction(u), x_proj.transpose(1, 2))


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Multiply the matrices of each direction: [G, n, k] times [G, k, m] -> [G, n, m]."""
    if a.is_cuda or (a.shape[2] != 1 and b.shape[2] != 1):
        return torch.bmm(a, b)
    # rank 1, in narrow models: on the CPU, bmm takes several times as long as this
    if a.shape[2] == 1:
        return a * b
    out = a.new_empty(a.shape[0], a.shape[1], 1)
    for g in range(a.shape[0]):
        torch.mm(a[g], b[g], out=out[g])
    return out


def _by_direction(u: Tensor) -> Tensor:
    """View [B, L, G, X], stored direction by direction, as [G, B L, X]."""
    return u.permute(2, 0, 1, 3).flatten(1, 2)


def _by_token(rows: Tensor, batch: int, length: int) -> Tensor:
    """View [G, B L, X] as [B, L, G, X]."""
    return rows.view(rows.shape[0], batch, length, rows.shape[2]).permute(1, 2, 0, 3)


class _FusedBlock(torch.autograd.Function):
    """The layer; see `fused_block`."""

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        target: Tensor | None,
        share: Tensor | None,
        length: int,
        kernels: Kernels,
        recompute: bool,
        dtype: torch.dtype,
        *parameters: Tensor,
    ) -> Tensor:
        w = BlockWeights(*parameters)
        merge = _merge(target, share, length)
        both = _Directions(w, dtype)
        batch = residual.shape[0]
        xz = _project_in(kernels.rms_norm(residual, w.norm, NORM_EPS, merge, dtype), w.in_proj)
        x, z = xz.chunk(2, dim=2)
        u = kernels.conv_forward(x, both.conv, both.conv_bias, REVERSE)
        low = _project_low(u, both.x_proj)
        dt, B, C = low.split((both.rank, both.states, both.states), dim=2)
        delta = _by_token(_products(dt, both.dt_proj.transpose(1, 2)), batch, length)
        gated = kernels.scan_forward(
            u, delta, both.A, _by_token(B, batch, length), _by_token(C, batch, length), both.D, both.dt_bias, z, REVERSE
        )
        kept = () if recompute else (xz, low)
        ctx.save_for_backward(residual, target, share, *kept, *parameters)
        ctx.constants = length, kernels, recompute, dtype, both
        skip = residual if merge is None else kernels.merge(residual, merge)
        return _add_product(skip, gated, w.out_proj)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        length, kernels, recompute, dtype, both = ctx.constants
        residual, target, share, *saved = ctx.saved_tensors
        w = BlockWeights(*saved[0 if recompute else 2 :])
        merge = _merge(target, share, length)
        batch, rank, states = residual.shape[0], both.rank, both.states
        grad_out = grad_out.contiguous()

        hidden = kernels.rms_norm(residual, w.norm, NORM_EPS, merge, dtype)
        xz = _project_in(hidden, w.in_proj) if recompute else saved[0]
        x, z = xz.chunk(2, dim=2)
        u = kernels.conv_forward(x, both.conv, both.conv_bias, REVERSE)
        low = _project_low(u, both.x_proj) if recompute else saved[1]
        dt, B, C = low.split((rank, states, states), dim=2)
        delta = _by_token(_products(dt, both.dt_proj.transpose(1, 2)), batch, length)

        grad_rows = grad_out.to(dtype).flatten(0, 1)
        grad_gated = torch.mm(grad_rows, w.out_proj.to(dtype)).view_as(x)
        grad_xz, grad_low = torch.empty_like(xz), torch.empty_like(low)
        grad_x, grad_z = grad_xz.chunk(2, dim=2)
        grad_dt, grad_B, grad_C = grad_low.split((rank, states, states), dim=2)
        grad = kernels.scan_backward(
            u, delta, both.A, _by_token(B, batch, length), _by_token(C, batch, length), both.D, both.dt_bias, z,
            REVERSE, grad_gated, _by_token(grad_B, batch, length), _by_token(grad_C, batch, length), grad_z,
        )  # fmt: skip
        del delta, grad_gated
        grad_out_proj = torch.mm(grad_rows.t(), grad.gated.flatten(0, 1))
        grad_delta = _by_direction(grad.delta)
        grad_dt.copy_(_products(grad_delta, both.dt_proj))
        grad_dt_proj = _products(grad_delta.transpose(1, 2), dt)
        grad_u = _by_direction(grad.u).baddbmm_(grad_low, both.x_proj)
        grad_x_proj = _products(grad_low.transpose(1, 2), _by_direction(u))
        grad_conv, grad_conv_bias = kernels.conv_backward(
            x, both.conv, both.conv_bias, REVERSE, _by_token(grad_u, batch, length), grad_x
        )
        grad_xz_rows = grad_xz.flatten(0, 1)
        grad_in_proj = torch.mm(grad_xz_rows.t(), hidden.flatten(0, 1))
        grad_hidden = torch.mm(grad_xz_rows, w.in_proj.to(dtype)).view_as(hidden)
        grad_residual, grad_norm = kernels.rms_norm_backward(residual, w.norm, NORM_EPS, merge, grad_hidden, grad_out)
        pairs = (
            grad_conv.unsqueeze(2), grad_conv_bias, grad_x_proj.float(), grad_dt_proj.float(), grad.delta_bias,
            grad.A * both.A, grad.D,
        )  # fmt: skip
        of_directions = [g for pair in pairs for g in pair.unbind()]
        # the other 6 arguments have no gradient; then those of BlockWeights, in order
        no_gradients = (None, None, None, None, None, None)
        return grad_residual, *no_gradients, grad_norm, grad_in_proj.float(), *of_directions, grad_out_proj.float()


def _merge(target: Tensor | None, share: Tensor | None, length: int) -> Merge | None:
    return None if target is None else Merge(target, cast(Tensor, share), length)


def _add_product(skip: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """Return skip [B, L, D] + rows [B, L, E] times the transposed weight [D, E], in the float32 of skip."""
    flat = rows.flatten(0, 1)
    if flat.dtype == skip.dtype:
        return torch.addmm(skip.flatten(0, 1), flat, weight.t()).view_as(skip)
    return skip + torch.mm(flat, weight.to(flat.dtype).t()).view_as(skip)
