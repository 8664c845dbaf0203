"""The published CUDA kernels of mamba-ssm and causal-conv1d (the extra `cuda`).

Their tensors are [B, channels, L] with time contiguous. The directions become additional channels with their own B and
C, so one call computes all of them; a reversed direction is flipped before and after.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from famba_core.ops.backend import Backend

MAX_STATES = 256
TAPS = (2, 3, 4)


@functools.cache
def load_functions() -> dict[str, Callable[..., Tensor]] | str:
    """Return the functions of the packages by name, or a sentence that says why one cannot be imported."""
    found = {}
    for package, module, name in (
        ("mamba-ssm", "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn"),
        ("causal-conv1d", "causal_conv1d", "causal_conv1d_fn"),
    ):
        try:
            found[name] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, OSError, RuntimeError) as error:  # the compiled part can be missing too
            reason = str(error).partition("\n")[0]
            return f"{package} cannot be imported ({reason})"
    return found


def unsupported_reason(*tensors: Tensor, state_size: int = 1, taps: int = TAPS[-1]) -> str | None:
    """Return why the kernels cannot take these tensors, or None."""
    if any(t.device.type != "cuda" for t in tensors):
        return "the tensors are not on a CUDA device"
    if any(t.dtype not in (torch.float32, torch.bfloat16, torch.float16) for t in tensors):
        return "the tensors are neither float32, bfloat16 nor float16"
    if state_size > MAX_STATES:
        return f"the kernels take at most {MAX_STATES} states, not {state_size}"
    if taps not in TAPS:
        return f"the kernels take a convolution of width {', '.join(map(str, TAPS))}, not {taps}"
    functions = load_functions()
    return functions if isinstance(functions, str) else None


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, *, reverse: Sequence[bool]
) -> Tensor:
    """Compute `ops.interface.selective_scan`; the states are float32."""
    functions = load_functions()
    assert not isinstance(functions, str), functions
    dtype = u.dtype
    y = functions["selective_scan_fn"](
        _channels_first(u, reverse).flatten(1, 2),
        _channels_first(delta.to(dtype), reverse).flatten(1, 2),
        A.float().flatten(0, 1).contiguous(),
        _channels_first(B.to(dtype), reverse),
        _channels_first(C.to(dtype), reverse),
        D=D.float().flatten(),
        delta_bias=delta_bias.float().flatten(),
        delta_softplus=True,
    )
    return _channels_last(y, reverse)


def causal_conv_silu(x: Tensor, weight: Tensor, bias: Tensor, *, reverse: Sequence[bool]) -> Tensor:
    """Compute `ops.interface.causal_conv_silu`; sums are float32."""
    functions = load_functions()
    assert not isinstance(functions, str), functions
    directions = x.unsqueeze(2).expand(-1, -1, len(reverse), -1)
    u = functions["causal_conv1d_fn"](
        _channels_first(directions, reverse).flatten(1, 2),
        weight.float().flatten(0, 1).contiguous(),
        bias=bias.float().flatten(),
        activation="silu",
    )
    return _channels_last(u, reverse)


def _channels_first(x: Tensor, reverse: Sequence[bool]) -> Tensor:
    """Return [B, L, G, X] as [B, G, X, L], contiguous, with time running forwards in every direction."""
    return torch.stack([_in_time(x[:, :, g], backwards).transpose(1, 2) for g, backwards in enumerate(reverse)], dim=1)


def _channels_last(x: Tensor, reverse: Sequence[bool]) -> Tensor:
    """Return [B, G X, L] as [B, L, G, X], with the flips undone."""
    directions = x.unflatten(1, (len(reverse), -1)).transpose(2, 3)
    return torch.stack([_in_time(directions[:, g], backwards) for g, backwards in enumerate(reverse)], dim=2)


def _in_time(x: Tensor, backwards: bool) -> Tensor:
    """Return x [B, L, X], flipped in time if the direction is reversed."""
    return x.flip(1) if backwards else x


BACKEND = Backend(
    name="mamba_ssm",
    selective_scan=selective_scan,
    causal_conv_silu=causal_conv_silu,
    unsupported_reason=unsupported_reason,
)
