"""What this machine offers: the backends and the peers (other projects) that run here, and its peak rates."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator

import torch

from famba_core.backbones import Backbone
from famba_core.bench.timing import Call
from famba_core.config import ConfigError, Precision
from famba_core.cost.data_sheets import CPU_OPS_PER_EXP, START_S, known_limits
from famba_core.cost.measure import times_ms
from famba_core.cost.roofline import Limits
from famba_core.device import device_name
from famba_core.ops import registry
from famba_core.ops.external import mambapy_ops

FLOAT_BYTES = 4
NEVER_TIMED = "reference"  # float64 and one step at a time, for comparing numbers
# tensors of E x N values per token that mambapy saves or works on: decay, input, both padded, states, gradient
MAMBAPY_TENSORS = 6
AUTO = "auto"  # the name that stands for the fastest backend that fits
PEERS = ("mambapy", "mamba_ssm")  # each has the name of the package that it imports
MATMUL_SIZES = {"cpu": 1536, "cuda": 8192}
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}
BEST_OF = 7


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
    if backend in PEERS and importlib.util.find_spec(backend) is None:
        return f"{backend} is not installed"
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


def device_limits(device: torch.device, precision: Precision) -> Limits:
    """Return the peak rates from the data sheet, or else the best of a few matrix products and copies."""
    known = known_limits(device_name(device), precision) if device.type == "cuda" else None
    if known is not None:
        return known
    matmul = _matmul_flops_per_s(device, torch.bfloat16 if precision == "bf16" else torch.float32)
    # float32 matrix products saturate the vector units with multiply-adds, which count as two operations
    float32 = matmul if precision == "float32" else _matmul_flops_per_s(device, torch.float32)
    return Limits(
        matmul_flops_per_s=matmul,
        vector_ops_per_s=float32 / 2,
        exps_per_s=float32 / 2 / CPU_OPS_PER_EXP,
        start_s=START_S[device.type],
        bytes_per_s=_copied_bytes_per_s(device),
        source="measured",
    )


def _matmul_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    size = MATMUL_SIZES[device.type]
    a, b = torch.randn(2, size, size, device=device).to(dtype).unbind()
    out = torch.empty_like(a)
    return 2 * size**3 / _best_s(lambda: torch.mm(a, b, out=out), device)


def _copied_bytes_per_s(device: torch.device) -> float:
    """Return the bytes read and written per second."""
    source = torch.zeros(COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best_s(lambda: target.copy_(source), device)


def _best_s(call: Call, device: torch.device) -> float:
    return min(times_ms(call, device, BEST_OF, lead=1)) / 1e3
