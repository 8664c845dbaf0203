"""The backend of the C++ kernels, for float32 and bfloat16 on the CPU."""

from __future__ import annotations

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from famba_core.ops.autograd import kernel_backend
from famba_core.ops.cpu import bindings
from famba_core.ops.cpu.build import library
from famba_core.ops.kernels import TAPS, unsupported_inputs


def unsupported_reason(*tensors: Tensor, state_size: int = 1, taps: int = TAPS) -> str | None:
    """Return why the kernels cannot take these tensors, or None."""
    if any(t.device.type != "cpu" or isinstance(t, FakeTensor) for t in tensors):
        return "the tensors are not in the CPU's memory"
    reason = unsupported_inputs(tensors, state_size, taps)
    if reason is not None:
        return reason
    kernels = library()
    return kernels if isinstance(kernels, str) else None


BACKEND = kernel_backend(
    "cpu",
    unsupported_reason=unsupported_reason,
    load_kernels=lambda: bindings,
    prepare=lambda tensor: tensor.float().contiguous(),
)
