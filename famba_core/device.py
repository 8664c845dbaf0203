"""The device a run computes on, and how it computes there."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import sys

import torch

from famba_core.config import ConfigError, Precision

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt

MOST_THREADS = 1024


def choose_device(name: str | None = None) -> torch.device:
    """Return the named device, or by default CUDA if there is one, else the CPU.

    Raises ConfigError for a device that does not exist.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError.of("device", f"{name!r} is not a device; choose from cpu, cuda, cuda:0, ...")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count() > 0:
        raise ConfigError.of(
            "device", f"{name} does not exist: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError.of("device", f"{name} is not available: torch {torch.__version__} sees no CUDA device")
    return device


def prepare(device: torch.device, precision: Precision, threads: int | None) -> None:
    """Set this process's threads, matrix precision and allocator.

    Raises ConfigError for a precision that the device lacks, for threads that no machine has, and if torch's default
    dtype is not float32.
    """
    if (dtype := torch.get_default_dtype()) != torch.float32:
        sentence = f"must be torch.float32, not {dtype}: call torch.set_default_dtype(torch.float32) before"
        raise ConfigError.of("torch's default dtype", sentence)
    if precision == "tf32" and device.type != "cuda":
        raise ConfigError.of("precision", "tf32 needs a CUDA device; choose float32 or bf16")
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise ConfigError.of("threads", f"must be from 1 to {MOST_THREADS}, not {threads}")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    if threads is not None:
        torch.set_num_threads(threads)
    if device.type == "cpu":
        _keep_freed_memory()


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context in which autocast does not act; on a device that has none, such as meta, an empty one."""
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Return the context in which forward passes run."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def device_name(device: torch.device) -> str:
    """Return the name of the device, such as "NVIDIA A100-SXM4-80GB" or "AMD EPYC (1 thread)"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu_model()} ({threads} thread{'' if threads == 1 else 's'})"


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cpu_model() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _keep_freed_memory() -> None:
    """Let glibc keep large freed blocks: a training step frees and asks for the same ones, and new pages cost more
    than the arithmetic on them."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
