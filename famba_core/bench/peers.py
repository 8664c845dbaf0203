"""The backends to compare: this project's backends, and those of other projects (peers) that are installed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator

import torch

from famba_core.backbones import Backbone
from famba_core.config import ConfigError
from famba_core.ops import registry
from famba_core.ops.external import mambapy_ops

FLOAT_BYTES = 4
NEVER_TIMED = "reference"  # float64 and one step at a time, for comparing numbers
# tensors of E x N values per token that mambapy saves or works on: decay, input, both padded, states, gradient
MAMBAPY_TENSORS = 6
AUTO = "auto"  # the name that stands for the fastest backend that fits
PEERS = {"mambapy": "mambapy", "mamba_ssm": "mamba_ssm"}  # backend -> package that it imports


def unsupported_reasons(device: torch.device, sizes: Backbone) -> dict[str, str | None]:
    """Return every backend and every peer by name, with the reason if it cannot run here."""
    own = [name for name in registry.backend_names() if name not in (NEVER_TIMED, *PEERS)]
    return {name: _unsupported_reason(name, device, sizes) for name in (*own, *PEERS)}


def peer_bytes_per_image(backend: str, sizes: Backbone, tokens: int) -> float:
    """Return roughly what a layer saves for backward beyond what all backends save; 0 if that is little."""
    if backend != "mambapy":
        return 0.0
    padded = 1 << (tokens - 1).bit_length()
    return 2.0 * MAMBAPY_TENSORS * FLOAT_BYTES * padded * 2 * sizes.width * sizes.state_size


def choose_auto(device: torch.device, sizes: Backbone) -> str:
    """Return the name of the backend that "auto" takes."""
    return registry.choose(AUTO, torch.empty(1, 1, 1, device=device), state_size=sizes.state_size).name


def _unsupported_reason(backend: str, device: torch.device, sizes: Backbone) -> str | None:
    if backend in PEERS and importlib.util.find_spec(PEERS[backend]) is None:
        return f"{PEERS[backend]} is not installed"
    try:
        registry.choose(backend, torch.empty(1, 1, 1, device=device), state_size=sizes.state_size)
    except ConfigError as error:
        return error.problems[0].sentence
    return None


@contextlib.contextmanager
def mambapy_registered() -> Iterator[None]:
    """Register mambapy as a backend while the context lasts."""
    registry.register(mambapy_ops.BACKEND)
    try:
        yield
    finally:
        registry.unregister(mambapy_ops.BACKEND.name)


def list_versions() -> str:
    """Return the versions of torch, Triton and the peers that are installed."""
    found = []
    for name in ("torch", "triton", "mambapy", "mamba-ssm", "causal-conv1d"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)
