"""The selective scan (Mamba; Famba-V equations 1-3), one function with exchangeable backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from famba_core.config import ConfigError
from famba_core.scan import reference, torch_scan

BACKENDS: dict[str, Callable[..., Tensor]] = {
    "torch": torch_scan.selective_scan,
    "reference": reference.selective_scan,  # float64, for comparison only
}


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
    """Scan G independent directions over one sequence.

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

    Returns y [B, L, G, E] in u's dtype. Raises ConfigError for an unknown backend.
    """
    if backend == "auto":
        backend = "torch"
    if backend not in BACKENDS:
        raise ConfigError([("backend", f"{backend!r} is not a scan backend; choose from auto, {', '.join(BACKENDS)}")])
    return BACKENDS[backend](u, delta, A, B, C, D, delta_bias, reverse=reverse)
