"""Peak rates and memory of GPUs from their data sheets, and rates of CPU threads."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from famba_core.config import Precision
from famba_core.cost.roofline import Limits


@dataclass(frozen=True, kw_only=True)
class _Sheet:
    """A GPU's data sheet: dense tera-FLOP/s with float32 accumulation, and what the rate of exponentials depends on."""

    gib: int  # of memory; a type sold in several sizes counts as the smallest if its name does not give the size
    bf16: float
    tf32: float
    float32: float
    tb_per_s: float
    processors: int  # streaming multiprocessors
    gigahertz: float  # boost clock


# One CPU thread with AVX-512: half of what two threads of an EPYC reached in matrix products and copies.
_THREAD_FLOPS_PER_S = {"bf16": 2.07e11, "tf32": 1.0e11, "float32": 1.0e11}
_THREAD_BYTES_PER_S = 1.67e10
CPU_OPS_PER_EXP = 10  # a polynomial and its scaling
# Of an operator of torch, with its share of autograd; on CUDA of a small kernel in a graph, including the wait for the
# kernel before.
START_S = {"cpu": 15e-6, "cuda": 2e-6}

_EXPS_PER_CLOCK = 16  # per streaming multiprocessor

# NVIDIA's data sheets, each named beside its numbers. A device has the first sheet that matches its name, or Ray's name
# of its type. T4, V100 and P100 have no units for bf16 and tf32, whose products run at the rate of float32.
_SHEETS = {
    # DGX B200, per GPU
    "B200": _Sheet(gib=180, bf16=2250, tf32=1125, float32=75, tb_per_s=8, processors=148, gigahertz=1.965),
    # GH200 Grace Hopper Superchip, 96 GB of HBM3
    "GH200": _Sheet(gib=96, bf16=990, tf32=494, float32=67, tb_per_s=4, processors=132, gigahertz=1.98),
    # H200 Tensor Core GPU, SXM
    "H200": _Sheet(gib=141, bf16=989, tf32=494, float32=67, tb_per_s=4.8, processors=132, gigahertz=1.98),
    # H100 Tensor Core GPU, PCIe
    "H100 PCIe": _Sheet(gib=80, bf16=756, tf32=378, float32=51, tb_per_s=2, processors=114, gigahertz=1.755),
    # H100 Tensor Core GPU, SXM
    "H100": _Sheet(gib=80, bf16=989, tf32=494, float32=67, tb_per_s=3.35, processors=132, gigahertz=1.98),
    # H20
    "H20": _Sheet(gib=96, bf16=148, tf32=74, float32=44, tb_per_s=4, processors=78, gigahertz=1.98),
    # A100 Tensor Core GPU, 80GB PCIe
    "A100 80GB PCIe": _Sheet(gib=80, bf16=312, tf32=156, float32=19.5, tb_per_s=1.935, processors=108, gigahertz=1.41),
    # A100 Tensor Core GPU, 80GB SXM
    "A100-80G": _Sheet(gib=80, bf16=312, tf32=156, float32=19.5, tb_per_s=2.039, processors=108, gigahertz=1.41),
    # A100 Tensor Core GPU, 40GB
    "A100": _Sheet(gib=40, bf16=312, tf32=156, float32=19.5, tb_per_s=1.555, processors=108, gigahertz=1.41),
    # L40S
    "L40S": _Sheet(gib=48, bf16=362, tf32=183, float32=91.6, tb_per_s=0.864, processors=142, gigahertz=2.52),
    # L40
    "L40": _Sheet(gib=48, bf16=181, tf32=90.5, float32=90.5, tb_per_s=0.864, processors=142, gigahertz=2.49),
    # L4 Tensor Core GPU
    "L4": _Sheet(gib=24, bf16=121, tf32=60, float32=30.3, tb_per_s=0.3, processors=58, gigahertz=2.04),
    # A10G, as Amazon's G5 instances have it
    "A10G": _Sheet(gib=24, bf16=70, tf32=35, float32=31.5, tb_per_s=0.6, processors=80, gigahertz=1.71),
    # A10 Tensor Core GPU
    "A10": _Sheet(gib=24, bf16=125, tf32=62.5, float32=31.2, tb_per_s=0.6, processors=72, gigahertz=1.695),
    # RTX A6000; GA102 white paper
    "A6000": _Sheet(gib=48, bf16=154.8, tf32=77.4, float32=38.7, tb_per_s=0.768, processors=84, gigahertz=1.8),
    # Ada GPU architecture white paper
    "RTX-4090": _Sheet(gib=24, bf16=165, tf32=82.6, float32=82.6, tb_per_s=1.008, processors=128, gigahertz=2.52),
    # V100, SXM2
    "V100": _Sheet(gib=16, bf16=15.7, tf32=15.7, float32=15.7, tb_per_s=0.9, processors=80, gigahertz=1.53),
    # Tesla P100, SXM2
    "P100": _Sheet(gib=16, bf16=10.6, tf32=10.6, float32=10.6, tb_per_s=0.732, processors=56, gigahertz=1.48),
    # T4
    "T4": _Sheet(gib=16, bf16=8.1, tf32=8.1, float32=8.1, tb_per_s=0.32, processors=40, gigahertz=1.59),
}  # fmt: skip


def known_limits(device_name: str, precision: Precision) -> Limits | None:
    """Return the limits of a GPU by its name, such as "NVIDIA H200", or None if its data sheet is not known."""
    if (sheet := _find_sheet(device_name)) is None:
        return None
    return Limits(
        matmul_flops_per_s=1e12 * {"bf16": sheet.bf16, "tf32": sheet.tf32, "float32": sheet.float32}[precision],
        vector_ops_per_s=1e12 * sheet.float32 / 2,  # the sheet counts a multiply-add as two operations
        exps_per_s=1e9 * sheet.gigahertz * sheet.processors * _EXPS_PER_CLOCK,
        bytes_per_s=1e12 * sheet.tb_per_s,
        start_s=START_S["cuda"],
        source="data sheet",
    )


def known_memory_gib(device_name: str) -> float | None:
    """Return the memory in GiB by a GPU's name or Ray's name of its type, such as "A100-80G"; None if not known."""
    sheet = _find_sheet(device_name)
    return sheet.gib if sheet else None


def _find_sheet(device_name: str) -> _Sheet | None:
    return next((sheet for name, sheet in _SHEETS.items() if is_of_type(device_name, name)), None)


def spell_type(name: str) -> str:
    """Return a GPU type in the spelling that Ray knows, such as "A100-80G" for "nvidia a100_80gb".

    Ray compares the names of types by their letters. A type that is not known stays as it is.
    """
    types = {_plain(known): known for known in (*_SHEETS, "A100-40G")}
    return types.get(_plain(name), name)


def similar_type(name: str) -> str | None:
    """Return the known GPU type whose name is most like `name`; None if none is."""
    types = {_plain(known): known for known in _SHEETS}
    close = difflib.get_close_matches(_plain(name), types, n=1)
    return types[close[0]] if close else None


def _plain(name: str) -> str:
    """Return a type's letters and digits, in capitals, without the maker's names and the B of GB."""
    words = re.sub(r"[^A-Z0-9]", "", re.sub(r"NVIDIA|TESLA|GEFORCE", "", name.upper()))
    return re.sub(r"(\d)GB", r"\1G", words)


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
