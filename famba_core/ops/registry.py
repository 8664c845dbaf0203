"""The registered backends, and the choice of the one that computes."""

from __future__ import annotations

import torch
from torch import Tensor

from famba_core.errors import ConfigError, suggest
from famba_core.ops import reference, torch_ops
from famba_core.ops.backend import Backend
from famba_core.ops.cpu import backend as cpu
from famba_core.ops.external import mamba_ssm_ops
from famba_core.ops.kernels import TAPS
from famba_core.ops.triton import backend as triton

AUTO_ORDER = ("cpu", "triton", "mamba_ssm", "torch")  # "auto" takes the first that fits; others are chosen by name

_backends: dict[str, Backend] = {}


def register(backend: Backend) -> None:
    """Add a backend. Raises ValueError if its name is taken."""
    if backend.name in ("auto", *_backends):
        raise ValueError(f"the backend name {backend.name!r} is taken")
    _backends[backend.name] = backend


def unregister(name: str) -> Backend:
    """Remove a backend and return it."""
    return _backends.pop(name)


def backend_names() -> tuple[str, ...]:
    """Return the names of the registered backends, in the order of registration."""
    return tuple(_backends)


def check_backend(name: str) -> None:
    """Raise ConfigError unless `name` is "auto" or a registered backend."""
    if name not in _backends and name != "auto":
        raise ConfigError.of("backend", f"{name!r} is not a scan backend; {suggest(name, ('auto', *_backends))}")


def choose(name: str, *tensors: Tensor, state_size: int = 1, taps: int = TAPS) -> Backend:
    """Return the backend that computes with these tensors: the named one, or for "auto" the first that fits.

    Raises ConfigError for an unknown name, for a named backend that cannot take the tensors, and inside
    torch.jit.trace and torch.export for a backend that they cannot record.
    """
    check_backend(name)
    if (torch._C._get_tracing_state() is not None or torch.compiler.is_exporting()) and not (
        name in _backends and _backends[name].traceable
    ):
        possible = [each.name for each in _backends.values() if each.traceable]
        sentence = f"torch.jit.trace and torch.export cannot record {name!r}; choose {' or '.join(possible)}"
        raise ConfigError.of("backend", sentence)
    reason: str | None = None
    for candidate in AUTO_ORDER if name == "auto" else (name,):
        backend = _backends.get(candidate)
        if backend is not None:
            reason = backend.unsupported_reason(*tensors, state_size=state_size, taps=taps)
            if reason is None:
                return backend
    raise ConfigError.of("backend", f"the {name} backend does not fit: {reason}; choose auto or torch")


for _each in (cpu.BACKEND, triton.BACKEND, mamba_ssm_ops.BACKEND, torch_ops.BACKEND, reference.BACKEND):
    register(_each)
