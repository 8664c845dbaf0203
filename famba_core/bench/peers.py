"""Which implementations there are to measure: this project's backends, and other projects' where they are installed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from famba_core.config import Backbone, ConfigError
from famba_core.ops import registry
from famba_core.ops.external import mambapy_ops

FLOAT_BYTES = 4
NEVER_TIMED = "reference"  # float64, one step at a time: there to compare numbers with
# E x N values of a token that mambapy keeps or works on: decay, input, both padded, states, gradient.
MAMBAPY_TENSORS = 6


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """A scan backend as the benchmark sees it."""

    backend: str  # its name in the registry
    peer: bool
    missing: str | None = None  # why it cannot run here

    def bytes_per_image(self, sizes: Backbone, tokens: int) -> float:
        """What a layer keeps for backward beyond what all implementations do, roughly; 0 where that is little."""
        if self.backend != "mambapy":
            return 0.0
        padded = 1 << (tokens - 1).bit_length()
        return 2.0 * MAMBAPY_TENSORS * FLOAT_BYTES * padded * 2 * sizes.width * sizes.state_size


AUTO = Implementation(backend="auto", peer=False)
PEERS = {"mambapy": "mambapy", "mamba_ssm": "mamba_ssm"}  # backend -> package that it imports


def implementations(device: torch.device, sizes: Backbone) -> list[Implementation]:
    """Every backend and every peer, those that cannot run here too, with the reason."""
    names = [name for name in registry.backend_names() if name not in (NEVER_TIMED, *PEERS)]
    return [
        Implementation(backend=name, peer=name in PEERS, missing=_unsupported_reason(name, device, sizes))
        for name in (*names, *PEERS)
    ]


def chosen(device: torch.device, sizes: Backbone) -> str:
    """The backend that "auto" takes."""
    return registry.choose("auto", _probe(device), state_size=sizes.state_size).name


def _unsupported_reason(backend: str, device: torch.device, sizes: Backbone) -> str | None:
    if backend in PEERS and importlib.util.find_spec(PEERS[backend]) is None:
        return f"{PEERS[backend]} is not installed"
    try:
        registry.choose(backend, _probe(device), state_size=sizes.state_size)
    except ConfigError as error:
        return error.problems[0][1]
    return None


def _probe(device: torch.device) -> torch.Tensor:
    return torch.empty(1, 1, 1, device=device)


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """mambapy among the scan backends, as long as a benchmark runs."""
    registry.register(mambapy_ops.BACKEND)
    try:
        yield
    finally:
        registry.unregister("mambapy")


def versions() -> str:
    """torch, Triton and the peers that are installed, with their versions."""
    names = ("torch", "triton", "mambapy", "mamba-ssm", "causal-conv1d")
    found = []
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)
