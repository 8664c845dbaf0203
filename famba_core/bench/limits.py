"""The limits of this device: from its data sheet, or measured."""

from __future__ import annotations

import torch

from famba_core.bench.timing import Call
from famba_core.config import Precision
from famba_core.cost.data_sheets import CPU_OPS_PER_EXP, START_S, known_limits
from famba_core.cost.measure import times_ms
from famba_core.cost.roofline import Limits
from famba_core.device import device_name

MATMUL_SIZES = {"cpu": 1536, "cuda": 8192}
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}
BEST_OF = 7


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
