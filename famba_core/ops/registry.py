"""The scan backends by name: register, unregister, and choose the one that fits."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import cast

from torch import Tensor

from famba_core.config import ConfigError
from famba_core.ops.kernels import Kernels

TAPS = 4  # width of Mamba's convolution
NEVER_AUTO = ("reference", "mambapy")  # there to compare with
# name -> module; "auto" takes the first that fits
BACKENDS = {
    "cpu": "famba_core.ops.cpu.backend",
    "triton": "famba_core.ops.triton.backend",
    "mamba_ssm": "famba_core.ops.external.mamba_ssm_ops",
    "torch": "famba_core.ops.torch_ops",
    "reference": "famba_core.ops.reference",
}
FUSED = ("cpu", "triton")  # those with the kernels of a fused block


def register(name: str, module: str) -> None:
    """Add a backend: a module with `selective_scan` and `causal_conv_silu`."""
    BACKENDS[name] = module


def unregister(name: str) -> None:
    """Remove a backend that `register` added."""
    del BACKENDS[name]


def choose(backend: str, *tensors: Tensor, state_size: int = 1, taps: int = TAPS) -> tuple[str, Kernels | None]:
    """The backend that computes with these tensors, and its kernels of a fused block where it has them.

    Raises ConfigError for a backend that is unknown, or that was named and does not fit.
    """
    check_backend(backend)
    for name in [name for name in BACKENDS if name not in NEVER_AUTO] if backend == "auto" else (backend,):
        module = backend_module(name)
        refuse = getattr(module, "unsupported_reason", None)
        reason = refuse(*tensors, state_size=state_size, taps=taps) if refuse else None
        if reason is None:
            return name, cast(Kernels, module) if name in FUSED else None
    raise ConfigError([("backend", f"the {backend} backend does not fit: {reason}; choose auto or torch")])


def check_backend(backend: str) -> None:
    """Raise ConfigError for a backend that does not exist."""
    if backend not in ("auto", *BACKENDS):
        raise ConfigError([("backend", f"{backend!r} is not a scan backend; choose from auto, {', '.join(BACKENDS)}")])


def backend_module(name: str) -> ModuleType:
    return _imported(BACKENDS[name])


@functools.cache
def _imported(module: str) -> ModuleType:
    return importlib.import_module(module)
