"""The selective scan of Mamba (Famba-V equations 1-3) and the convolution before it, with exchangeable backends.

Both work on G independent directions over one sequence, tensors [B, L, G, E] with the channels last.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from famba_core.ops.registry import backend_module, choose


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    *,
    reverse: Sequence[bool],
    backend: str = "auto",
) -> Tensor:
    """Scan each direction.

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
        reverse: for each direction, whether time runs from L to 1.
        backend: a key of BACKENDS; "auto" takes the fastest one that fits.

    Returns y [B, L, G, E] in u's dtype. Raises ConfigError for a backend that is unknown or does not fit.
    """
    name, _ = choose(backend, u, delta, A, B, C, D, delta_bias, state_size=A.shape[2])
    y: Tensor = backend_module(name).selective_scan(u, delta, A, B, C, D, delta_bias, reverse=reverse)
    return y


def causal_conv_silu(
    x: Tensor, weight: Tensor, bias: Tensor, *, reverse: Sequence[bool], backend: str = "auto"
) -> Tensor:
    """SiLU of each direction's own depthwise convolution, causal in the direction's order.

    Args:
        x: [B, L, E], shared by the directions.
        weight: [G, E, taps]; the last tap is the present token's.
        bias: [G, E].
        reverse: for each direction, whether time runs from L to 1.
        backend: a key of BACKENDS; "auto" takes the fastest one that fits.

    Returns [B, L, G, E] in x's dtype. Raises ConfigError as `selective_scan` does.
    """
    name, _ = choose(backend, x, weight, bias, taps=weight.shape[2])
    u: Tensor = backend_module(name).causal_conv_silu(x, weight, bias, reverse=reverse)
    return u
