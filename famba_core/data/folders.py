"""The folders where data sets are searched."""

from __future__ import annotations

import os
from pathlib import Path

from famba_core.config import ConfigError, DataConfig


class DatasetMissing(ConfigError):
    """The data set is in none of the folders that were searched."""


def search_folders(config: DataConfig) -> list[Path]:
    """Return the configured folder alone, or if there is none, FAMBA_DATA and `data/` in this order."""
    if config.data_dir is not None:
        return [Path(config.data_dir).expanduser()]
    from_environment = os.environ.get("FAMBA_DATA")
    return [Path(folder).expanduser() for folder in (from_environment, "data") if folder]


def missing_dataset(config: DataConfig, *, wanted: str, remedy: str) -> DatasetMissing:
    """Return the error that names the folders searched, the files wanted there, and how to get them."""
    searched = ", ".join(str(folder.absolute()) for folder in search_folders(config))
    field = "dataset" if config.data_dir is None else "data_dir"
    return DatasetMissing.of(field, f"{config.dataset} was not found; searched {searched} for {wanted}; {remedy}")
