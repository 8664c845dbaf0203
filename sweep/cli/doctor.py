"""Lists what this machine has: devices, scan backends, data sets, versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata

from famba_core.config import ConfigError, DataConfig, DatasetName

PACKAGES = ("famba-sweep", "torch", "ray", "optuna", "pandas", "pyarrow", "mamba-ssm", "causal-conv1d")


def has_gpu() -> bool:
    """True if torch can compute on a GPU of this machine."""
    import torch

    return torch.cuda.is_available()


def has_cifar100(data_dir: str | None = None) -> bool:
    """True if a trial would find CIFAR-100."""
    return not isinstance(_dataset("cifar100", data_dir), ConfigError)


def list_findings(data_dir: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield (topic, what was found) for each line."""
    import torch

    from famba_core.device import device_name
    from famba_core.ops.cpu.build import library

    yield "python", f"{platform.python_version()} on {platform.platform(terse=True)}"
    for package in PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            yield package, "not installed"
    yield "cpu", f"{device_name(torch.device('cpu')).rsplit(' (', 1)[0]}, {os.cpu_count()} cores"
    if not has_gpu():
        yield "gpu", "none that torch can use"
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        yield "gpu", f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB"
    kernels = library()
    yield "scan: cpu", f"not available: {kernels}" if isinstance(kernels, str) else "C++ kernels, built and loaded"
    yield "scan: torch", "plain PyTorch, always available"
    names: tuple[DatasetName, ...] = ("digits", "cifar100")
    for name in names:
        found = _dataset(name, data_dir if name != "digits" else None)
        yield name, found.problems[0].sentence if isinstance(found, ConfigError) else found


def _dataset(name: DatasetName, data_dir: str | None) -> str | ConfigError:
    """Return the data set's size, or why it cannot be used."""
    from famba_core.data.datasets import describe_dataset

    try:
        info = describe_dataset(DataConfig(dataset=name, data_dir=data_dir))
    except ConfigError as error:
        return error
    return f"{info.train_images} training and {info.test_images} test images, {info.num_classes} classes"
