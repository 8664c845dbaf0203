"""Backends under test, and the inputs, outputs and gradients for a comparison with the naive one."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from famba_core.ops import registry
from famba_core.ops.cpu.build import library

needs_kernels = pytest.mark.skipif(isinstance(library(), str), reason=f"needs the C++ kernels: {library()}")
FAST = [pytest.param("cpu", marks=needs_kernels), "torch"]


def outputs_and_gradients(function: Callable[..., Tensor], inputs: list[Tensor], **options: Any) -> list[Tensor]:
    """Return y and the gradients of a weighted sum of it, in float64."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = function(*leaves, **options)
    pull = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [x.double() for x in (y.detach(), *torch.autograd.grad((y.double() * pull).sum(), leaves))]


def conv_inputs(batch: int, length: int, groups: int, width: int, taps: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = ((batch, length, width), (groups, width, taps), (groups, width))
    return [torch.randn(*shape, generator=generator) for shape in shapes]


@contextlib.contextmanager
def changed_backend(name: str, **changes: Any) -> Iterator[None]:
    """Register a changed copy of a backend in its place while the context lasts."""
    original = registry.unregister(name)
    registry.register(replace(original, **changes))
    try:
        yield
    finally:
        registry.unregister(name)
        registry.register(original)
