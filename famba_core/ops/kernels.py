"""The kernels that a backend supplies for the fused block: pairs of functions without autograd.

T is the dtype of the activations, float32 or bfloat16; parameters, states and the residual are float32. Tensors
[B, L, G, X] may be views: channels are contiguous, the B L tokens are evenly spaced, and the stride between the
directions G is free, as in tensors stored [G, B, L, X]. x and z [B, L, E] are halves of one tensor [B, L, 2E].
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from famba_core.config import Order
from famba_core.fusion.matching import Match, Merge

TAPS = 4  # width of Mamba's convolution
STATE_SIZES = (1, 2, 4, 8, 16, 32)  # N that kernels are compiled for

Reverse = tuple[bool, ...]  # for each direction, True if it runs from the last token to the first


class ScanGradients(NamedTuple):
    """Result of `scan_backward`. The gradients of B, C and z are written into tensors of the caller instead."""

    gated: Tensor  # [B, L, E] T, the output of scan_forward, computed again; without z its content is undefined
    u: Tensor  # [B, L, G, E] T
    delta: Tensor  # [B, L, G, E] T
    A: Tensor  # [G, E, N]
    D: Tensor  # [G, E]
    delta_bias: Tensor  # [G, E]


class Kernels(Protocol):
    """One device's kernels. They check nothing: the backend's `unsupported_reason` has refused what does not fit."""

    def match(self, metric: Tensor, r: int, class_index: Tensor, order: Order) -> Match:
        """Choose the tokens that fuse, see `famba_core.fusion.matching.match`; of equal tokens, the first ones."""

    def rms_norm(self, residual: Tensor, weight: Tensor, eps: float, merge: Merge | None, dtype: torch.dtype) -> Tensor:
        """Return merge(norm(residual)) [B, L - r, D] in `dtype`, for residual [B, L, D] and weight [D]."""

    def rms_norm_backward(
        self, residual: Tensor, weight: Tensor, eps: float, merge: Merge | None, grad_hidden: Tensor, grad_skip: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of residual [B, L, D] and weight [D], both float32.

        Args:
            grad_hidden: [B, L - r, D] T, of the output of `rms_norm`.
            grad_skip: [B, L - r, D] float32, of merge(residual).
        """

    def merge(self, x: Tensor, merge: Merge) -> Tensor:
        """Return the shorter sequence [B, L - r, D] of x [B, L, D] float32: sums of tokens times their shares."""

    def conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor, reverse: Reverse) -> Tensor:
        """Return u [B, L, G, E] of x [B, L, E], weight [G, E, taps] and bias [G, E]; see `causal_conv_silu`."""

    def conv_backward(
        self, x: Tensor, weight: Tensor, bias: Tensor, reverse: Reverse, grad_u: Tensor, grad_x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of weight and bias in float32; write that of x, over all directions, to grad_x."""

    def scan_forward(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor,
        z: Tensor | None, reverse: Reverse,
    ) -> Tensor:  # fmt: skip
        """Return the directions' mean of `selective_scan`, times SiLU(z): [B, L, E] T.

        Without z, return `selective_scan` itself: [B, L, G, E] T.
        """

    def scan_backward(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor,
        z: Tensor | None, reverse: Reverse, grad_out: Tensor, grad_B: Tensor, grad_C: Tensor, grad_z: Tensor | None,
    ) -> ScanGradients:  # fmt: skip
        """Return the gradients for grad_out, which has the shape of the output of `scan_forward`.

        Those of B and C [B, L, G, N] and z [B, L, E] are written to grad_B, grad_C and grad_z.
        """


def unsupported_inputs(tensors: tuple[Tensor, ...], state_size: int, taps: int) -> str | None:
    """Return why compiled kernels cannot take these inputs on any device, or None."""
    if any(t.dtype not in (torch.float32, torch.bfloat16) for t in tensors):
        return "the tensors are neither float32 nor bfloat16"
    if state_size not in STATE_SIZES:
        return f"the kernels are compiled for {', '.join(map(str, STATE_SIZES))} states, not {state_size}"
    if taps != TAPS:
        return f"the kernels are compiled for a convolution of width {TAPS}, not {taps}"
    return None
