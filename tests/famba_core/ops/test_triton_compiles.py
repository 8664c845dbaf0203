"""Compilation of every Triton kernel to machine code, which needs no GPU.

The interpreter accepts Python that the compiler refuses. The launches are the real ones, with tensors on the CPU; only
the driver's description of the device is made up, and nothing runs.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from famba_core.fusion.matching import Merge
from famba_core.ops.triton.backend import interpreting, load_kernels

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(interpreting(), reason="the interpreter compiles nothing"),
]
BOTH = (False, True)
B, L, E, N, D, RANK = 2, 33, 48, 16, 24, 12


@pytest.fixture(params=[80, 90])
def assembly(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[], list[str]]:
    """Turn launches into compilations for an A100 or an H200; return a function that pops their assembly."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver, jit

    class Device:
        def get_current_target(self) -> Any:
            return GPUTarget("cuda", request.param, 32)

        def get_current_device(self) -> int:
            return request.param  # compiled kernels are cached for each device

        def get_current_stream(self, device: int) -> int:
            return 0

    compiled: list[str] = []
    launch = jit.JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = launch(self, *args, grid=grid, warmup=True, **options)
        assert kernel.asm["cubin"].startswith(b"\x7fELF")
        compiled.append(kernel.asm["ptx"])
        return kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", os.fspath(tmp_path))
    monkeypatch.setattr(driver, "_active", Device())
    monkeypatch.setattr(jit.JITFunction, "run", compile_only)

    def pop() -> list[str]:
        found = list(compiled)
        compiled.clear()
        return found

    return pop


def scan_inputs(dtype: torch.dtype, states: int) -> tuple[Tensor, ...]:
    z = torch.zeros(B, L, 2 * E, dtype=dtype)[..., E:]
    u, delta = torch.zeros(2, 2, B, L, E, dtype=dtype).permute(0, 2, 3, 1, 4).unbind()
    low = torch.zeros(2, B, L, RANK + 2 * states, dtype=dtype).permute(1, 2, 0, 3)
    b, c = low[..., RANK:].split(states, dim=-1)
    return u, delta, torch.zeros(2, E, states), b, c, torch.zeros(2, E), torch.zeros(2, E), z


@pytest.mark.parametrize(("dtype", "states"), [(torch.bfloat16, N), (torch.float32, 1)])
def test_scan_compiles(assembly, dtype, states):
    *inputs, z = scan_inputs(dtype, states)
    u, _, _, b, c, *_ = inputs
    load_kernels().scan_forward(*inputs, z, BOTH)
    (forward,) = assembly()  # both directions and the gate
    if states == N:
        assert "shfl" not in forward, "lanes exchange values"
    load_kernels().scan_backward(*inputs, z, BOTH, torch.zeros(B, L, E, dtype=dtype), b, c, z)
    assert len(assembly()) == 3
    load_kernels().scan_forward(*inputs, None, BOTH)
    load_kernels().scan_backward(*inputs, None, BOTH, u, b, c, None)
    assert len(assembly()) == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_convolution_compiles(assembly, dtype):
    x = torch.zeros(B, L, 2 * E, dtype=dtype)[..., :E]
    u = load_kernels().conv_forward(x, torch.zeros(2, E, 4), torch.zeros(2, E), BOTH)
    load_kernels().conv_backward(x, torch.zeros(2, E, 4), torch.zeros(2, E), BOTH, u, x)
    assert len(assembly()) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_norm_compiles(assembly, dtype):
    residual, weight = torch.zeros(B, L, D), torch.zeros(D)
    for merge in (None, Merge(torch.zeros(B, L, dtype=torch.long), torch.zeros(B, L), L - 4)):
        hidden = load_kernels().rms_norm(residual, weight, 1e-5, merge, dtype)
        load_kernels().rms_norm_backward(residual, weight, 1e-5, merge, hidden, hidden.float())
        assert len(assembly()) == 2
    assert merge is not None
    load_kernels().merge(residual, merge)
    assert len(assembly()) == 1


@pytest.mark.parametrize("order", ["concat", "raster"])
def test_matching_compiles(assembly, order):
    hidden = torch.zeros(B, L, D, dtype=torch.bfloat16)
    load_kernels().match(hidden, 4, torch.zeros(B, dtype=torch.long), order)
    assert len(assembly()) == 3
