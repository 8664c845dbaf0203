"""Peak rates and memory of GPUs from their data sheets, and rates of CPU threads."""

from __future__ import annotations

import re
from dataclasses import dataclass

from famba_core.config import Precision
from famba_core.cost.roofline import Limits


@dataclass(frozen=True, kw_only=True)
class _Sheet:
    """A GPU's data sheet: dense tera-FLOP/s with float32 accumulation, and what the rate of exponentials depends on."""

    bf16: float
    tf32: float
    float32: float
    terabytes_per_s: float
    processors: int  # streaming multiprocessors
    gigahertz: float  # boost clock


# GiB of memory. A type sold in several sizes counts as the smallest if its name does not give the size.
_MEMORY_GIB = {
    "B200": 180, "H200": 141, "H100": 80, "A100-80G": 80, "A100-SXM4-80GB": 80, "A100 80GB": 80, "A100": 40,
    "GH200": 96, "H20": 96,
    "L40S": 48, "L40": 48, "L4": 24, "A10": 24, "A6000": 48, "RTX 4090": 24, "V100": 16, "P100": 16, "T4": 16,
}  # fmt: skip


# One CPU thread with AVX-512: half of what two threads of an EPYC reached in matrix products and copies.
_THREAD_FLOPS_PER_S = {"bf16": 2.07e11, "tf32": 1.0e11, "float32": 1.0e11}
_THREAD_BYTES_PER_S = 1.67e10
CPU_OPS_PER_EXP = 10  # a polynomial and its scaling
# Of an operator of torch, with its share of autograd; on CUDA of a small kernel in a graph, including the wait for the
# kernel before.
START_S = {"cpu": 15e-6, "cuda": 2e-6}

_EXPS_PER_CLOCK = 16  # per streaming multiprocessor

# NVIDIA's data sheets. A device has the first sheet that matches its name.
_SHEETS = {
    "H200": _Sheet(bf16=989, tf32=494, float32=67, terabytes_per_s=4.8, processors=132, gigahertz=1.98),
    "H100 PCIe": _Sheet(bf16=756, tf32=378, float32=51, terabytes_per_s=2.0, processors=114, gigahertz=1.755),
    "H100": _Sheet(bf16=989, tf32=494, float32=67, terabytes_per_s=3.35, processors=132, gigahertz=1.98),
    "A100-SXM4-80GB": _Sheet(bf16=312, tf32=156, float32=19.5, terabytes_per_s=2.039, processors=108, gigahertz=1.41),
    "A100 80GB PCIe": _Sheet(bf16=312, tf32=156, float32=19.5, terabytes_per_s=1.935, processors=108, gigahertz=1.41),
    "A100": _Sheet(bf16=312, tf32=156, float32=19.5, terabytes_per_s=1.555, processors=108, gigahertz=1.41),
    "RTX 4090": _Sheet(bf16=165, tf32=82.6, float32=82.6, terabytes_per_s=1.008, processors=128, gigahertz=2.52),
}


def known_limits(device_name: str, precision: Precision) -> Limits | None:
    """Return the limits of a GPU by its name, such as "NVIDIA H200", or None if its data sheet is not known."""
    sheet = next((sheet for name, sheet in _SHEETS.items() if is_of_type(device_name, name)), None)
    if sheet is None:
        return None
    return Limits(
        matmul_flops_per_s=1e12 * {"bf16": sheet.bf16, "tf32": sheet.tf32, "float32": sheet.float32}[precision],
        vector_ops_per_s=1e12 * sheet.float32 / 2,  # the sheet counts a multiply-add as two operations
        exps_per_s=1e9 * sheet.gigahertz * sheet.processors * _EXPS_PER_CLOCK,
        bytes_per_s=1e12 * sheet.terabytes_per_s,
        start_s=START_S["cuda"],
        source="data sheet",
    )


def known_memory_gib(device_name: str) -> float | None:
    """Return the memory in GiB by a GPU's name or Ray's name of its type, such as "A100-80G"; None if not known."""
    return next((gib for name, gib in _MEMORY_GIB.items() if is_of_type(device_name, name)), None)


def is_of_type(device_name: str, type_name: str) -> bool:
    """True if a GPU, by its name, is of the type that Ray calls `type_name`, such as "A100-80G".

    Whole words are compared, because an A100 is not an A10; the memory size is compared if the type's name has one.
    """
    kind, size = re.sub(r"-(\d+)G$", "", type_name), re.search(r"-(\d+)G$", type_name)
    words = re.escape(kind).replace(r"\-", "[- ]")  # RTX-PRO-6000
    sizes = re.findall(r"(\d+)GB?\b", device_name)
    is_kind = re.search(rf"(?<![A-Za-z0-9]){words}(?![A-Za-z0-9])", device_name) is not None
    return is_kind and (size is None or size[1] in sizes)


def cpu_limits(threads: int, precision: Precision) -> Limits:
    """Return what this number of threads of a current CPU reaches, for a device without measurements."""
    vector_ops_per_s = threads * _THREAD_FLOPS_PER_S["float32"] / 2
    return Limits(
        matmul_flops_per_s=threads * _THREAD_FLOPS_PER_S[precision],
        vector_ops_per_s=vector_ops_per_s,
        exps_per_s=vector_ops_per_s / CPU_OPS_PER_EXP,
        bytes_per_s=threads * _THREAD_BYTES_PER_S,
        start_s=START_S["cpu"],
        source="measured",
    )
