"""Where data sets on disk are looked for."""

from __future__ import annotations

import os
from pathlib import Path

from famba_core.config import ConfigError, DataConfig


class DatasetMissing(ConfigError):
    """The data set is in none of the folders where it was looked for."""


def data_folders(config: DataConfig) -> list[Path]:
    """The given folder, and no other; without one, those of FAMBA_DATA and `data/`, in this order."""
    if config.data_dir is not None:
        return [Path(config.data_dir).expanduser()]
    from_environment = os.environ.get("FAMBA_DATA")
    return [Path(folder).expanduser() for folder in (from_environment, "data") if folder]


def dataset_missing(config: DataConfig, *, wanted: str, remedy: str) -> DatasetMissing:
    """The error that says where was looked, what was `wanted` there, and how to get it."""
    looked = ", ".join(str(folder.absolute()) for folder in data_folders(config))
    field = "dataset" if config.data_dir is None else "data_dir"
    return DatasetMissing([(field, f"{config.dataset} was not found; looked in {looked} for {wanted}; {remedy}")])
