"""The backend of the Triton kernels, for float32 and bfloat16 on CUDA devices.

Importing this module does not import triton; the first use of a kernel does. With TRITON_INTERPRET=1 in the
environment triton interprets its kernels on the CPU, thousands of times slower; so they are tested without a GPU.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch
from torch import Tensor

from famba_core.ops.autograd import kernel_backend
from famba_core.ops.kernels import TAPS, Kernels, unsupported_inputs

OLDEST_DEVICE = (8, 0)  # compute capability; bfloat16 arithmetic starts there


def unsupported_reason(*tensors: Tensor, state_size: int = 1, taps: int = TAPS) -> str | None:
    """Return why the kernels cannot take these tensors, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not interpreting():
        if any(t.device.type != "cuda" for t in tensors):
            return "the tensors are not on a CUDA device"
        if any(_capability(t.device) < OLDEST_DEVICE for t in tensors):
            return f"the device is older than compute capability {'.'.join(map(str, OLDEST_DEVICE))}"
    return unsupported_inputs(tensors, state_size, taps)


def interpreting() -> bool:
    """True if triton interprets its kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


@functools.cache
def load_kernels() -> Kernels:
    """Import triton and return the kernels."""
    from famba_core.ops.triton import kernels

    return kernels


def _evenly_spaced(x: Tensor) -> Tensor:
    """Return x [B, L, ..., channels] with contiguous channels and one stride between all of its B L tokens."""
    evenly = x.stride(-1) == 1 and (x.shape[0] == 1 or x.stride(0) == x.shape[1] * x.stride(1))
    return x if evenly else x.contiguous()


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


BACKEND = kernel_backend(
    "triton", unsupported_reason=unsupported_reason, load_kernels=load_kernels, prepare=_evenly_spaced
)
