"""The record of a backend: its functions, and the reason when it cannot take the given tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from famba_core.ops.kernels import Kernels


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One implementation of the scan and of the convolution before it, and of the fused block if it has the kernels."""

    name: str
    selective_scan: Callable[..., Tensor]  # as `ops.interface.selective_scan`, without `backend`
    causal_conv_silu: Callable[..., Tensor]  # as `ops.interface.causal_conv_silu`, without `backend`
    # (*tensors, state_size=, taps=) -> why the backend cannot take them, or None
    unsupported_reason: Callable[..., str | None] = lambda *tensors, state_size, taps: None
    traceable: bool = False  # made of torch's own operations, which torch.jit.trace and torch.export can record
    load_kernels: Callable[[], Kernels] | None = None  # called when the kernels are first needed

    @functools.cached_property
    def kernels(self) -> Kernels | None:
        """The kernels of the fused block, or None; the first access imports or builds them."""
        return None if self.load_kernels is None else self.load_kernels()
