"""Fetching CIFAR-100."""

from __future__ import annotations

from pathlib import Path

from famba_core.config import ConfigError

REPOSITORY = "uoft-cs/cifar100"


def download_cifar100(folder: Path) -> Path:
    """Fetch the public Parquet set from the Hugging Face hub (about 140 MB) into `folder`/cifar100, and return that.

    Files that are there and whole are not fetched again. Raises ConfigError where the network or the disk fails.
    """
    from huggingface_hub import snapshot_download

    target = folder / "cifar100"
    try:
        snapshot_download(REPOSITORY, repo_type="dataset", allow_patterns=["*.parquet"], local_dir=target)
    except Exception as error:  # the hub's releases raise the errors of different HTTP libraries
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError([("dataset", f"{REPOSITORY} could not be fetched into {target} ({reason})")]) from error
    return target
