"""The reasons why the Triton backend refuses tensors. These tests need neither a GPU nor triton."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from famba_core.config import ConfigError
from famba_core.ops.interface import causal_conv_silu, selective_scan
from famba_core.ops.kernels import Kernels
from famba_core.ops.triton import backend


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def test_missing_triton_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert backend.unsupported_reason(torch.zeros(1)) == "triton is not installed"
    with pytest.raises(ConfigError, match="the triton backend does not fit: triton is not installed; choose"):
        causal_conv_silu(
            torch.zeros(1, 2, 3), torch.zeros(1, 3, 4), torch.zeros(1, 3), reverse=[True], backend="triton"
        )


def test_cpu_tensors_need_the_interpreter(installed, monkeypatch):
    assert backend.unsupported_reason(torch.zeros(1)) == "the tensors are not on a CUDA device"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backend.unsupported_reason(torch.zeros(1)) is None


def test_unsupported_tensors_are_refused(installed, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backend.unsupported_reason(torch.zeros(1).double()) == "the tensors are neither float32 nor bfloat16"
    assert backend.unsupported_reason(state_size=3) == ("the kernels are compiled for 1, 2, 4, 8, 16, 32 states, not 3")
    assert backend.unsupported_reason(taps=3) == "the kernels are compiled for a convolution of width 4, not 3"
    inputs = [torch.zeros(1, 2, 1, 3) for _ in range(2)] + [torch.zeros(1, 3, 3)]
    inputs += [torch.zeros(1, 2, 1, 3) for _ in range(2)] + [torch.zeros(1, 3) for _ in range(2)]
    with pytest.raises(ConfigError, match=r"does not fit: the kernels are compiled for .* states, not 3"):
        selective_scan(*inputs, reverse=[False], backend="triton")


def test_old_device_is_refused(installed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    backend._capability.cache_clear()
    on_gpu = torch.empty(1, device="meta")
    monkeypatch.setattr(torch.Tensor, "device", property(lambda self: torch.device("cuda:7")))
    assert backend.unsupported_reason(on_gpu) == "the device is older than compute capability 8.0"
    backend._capability.cache_clear()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_triton_backend_has_every_kernel_of_the_fused_block():
    for name in (name for name in vars(Kernels) if not name.startswith("_")):
        assert callable(getattr(backend.BACKEND.kernels, name))


def test_triton_is_imported_only_for_its_kernels():
    code = "import sys, famba_core.ops.registry; sys.exit('triton' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
