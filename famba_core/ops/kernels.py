"""What a backend supplies for the fused block: pairs of kernels without autograd.

T is the dtype of the activations, float32 or bfloat16; parameters, states and the residual are float32. Tensors
[B, L, G, X] may be views: channels are contiguous, (B, L) evenly spaced, and the directions G lie anywhere, as in
tensors stored [G, B, L, X]. x and z [B, L, E] are halves of one tensor [B, L, 2E].
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from famba_core.config import Order
from famba_core.fusion.matching import Match, Merge

Reverse = tuple[bool, ...]  # for each direction, whether time runs from L to 1


class ScanGradients(NamedTuple):
    """What `scan_backward` returns; the gradients of B, C and z go where its caller wants them."""

    gated: Tensor  # [B, L, E] T, the forward's output once more
    u: Tensor  # [B, L, G, E] T
    delta: Tensor  # [B, L, G, E] T
    A: Tensor  # [G, E, N]
    D: Tensor  # [G, E]
    delta_bias: Tensor  # [G, E]


class Kernels(Protocol):
    """One device's kernels. They raise nothing: what does not fit is refused before, by `unsupported_reason`."""

    def match(self, metric: Tensor, r: int, class_index: Tensor, order: Order) -> Match:
        """See `famba_core.fusion.matching.match`."""

    def rms_norm(self, residual: Tensor, weight: Tensor, eps: float, merge: Merge | None, dtype: torch.dtype) -> Tensor:
        """residual [B, L, D], weight [D] -> merge(norm(residual)) [B, L - r, D] in `dtype`."""

    def rms_norm_backward(
        self, residual: Tensor, weight: Tensor, eps: float, merge: Merge | None, grad_hidden: Tensor, grad_skip: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of residual [B, L, D] and weight [D].

        grad_hidden [B, L - r, D] T is that of `rms_norm`'s output, grad_skip [B, L - r, D] float32 that of the merged
        residual.
        """

    def merge(self, x: Tensor, merge: Merge) -> Tensor:
        """x [B, L, D] float32 -> [B, L - r, D]."""

    def conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor, reverse: Reverse) -> Tensor:
        """x [B, L, E], weight [G, E, taps], bias [G, E] -> u [B, L, G, E], as `ops.interface.causal_conv_silu`."""

    def conv_backward(
        self, x: Tensor, weight: Tensor, bias: Tensor, reverse: Reverse, grad_u: Tensor, grad_x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of weight and bias; that of x is written to grad_x [B, L, E]."""

    def scan_forward(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, z: Tensor,
        reverse: Reverse,
    ) -> Tensor:  # fmt: skip
        """The directions' mean of `ops.interface.selective_scan`, times SiLU(z): [B, L, E] T."""

    def scan_backward(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, z: Tensor,
        reverse: Reverse, grad_gated: Tensor, grad_B: Tensor, grad_C: Tensor, grad_z: Tensor,
    ) -> ScanGradients:  # fmt: skip
        """Gradients for grad_gated [B, L, E]; those of B, C [B, L, G, N] and z [B, L, E] are written."""
