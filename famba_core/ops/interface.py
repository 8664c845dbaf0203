"""The selective scan of Mamba (Famba-V equations 1-3) and the convolution before it, on any backend.

Both work on G independent directions over one sequence: tensors [B, L, G, E], channels last.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from famba_core.ops.registry import choose


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor,
    *, reverse: Sequence[bool], backend: str = "auto",
) -> Tensor:  # fmt: skip
    """Return the scan of each direction, y [B, L, G, E] in the dtype of u.

        step_t = softplus(delta_t + delta_bias)
        h_t    = exp(step_t A) h_{t-1} + step_t B_t u_t        (h is zero before the first step)
        y_t    = C_t h_t + D u_t

    Args:
        u: input [B, L, G, E].
        delta: step sizes before bias and softplus [B, L, G, E].
        A: state decay, negative [G, E, N].
        B, C: input and output projections, shared by a direction's channels [B, L, G, N].
        D: skip [G, E].
        delta_bias: [G, E].
        reverse: for each direction, True if time runs from L to 1.
        backend: the name of a registered backend; "auto" takes the fastest that fits.

    Raises ConfigError for a backend that is unknown or cannot take the tensors.
    """
    chosen = choose(backend, u, delta, A, B, C, D, delta_bias, state_size=A.shape[2])
    return chosen.selective_scan(u, delta, A, B, C, D, delta_bias, reverse=reverse)


def causal_conv_silu(
    x: Tensor, weight: Tensor, bias: Tensor, *, reverse: Sequence[bool], backend: str = "auto"
) -> Tensor:
    """Return SiLU of each direction's own depthwise convolution, u [B, L, G, E] in the dtype of x.

    The convolution is causal in the order of the direction.

    Args:
        x: [B, L, E], shared by the directions.
        weight: [G, E, taps]; the last tap belongs to the current token.
        bias: [G, E].
        reverse, backend: as in `selective_scan`.

    Raises ConfigError as `selective_scan` does.
    """
    chosen = choose(backend, x, weight, bias, taps=weight.shape[2])
    return chosen.causal_conv_silu(x, weight, bias, reverse=reverse)
