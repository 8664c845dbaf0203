"""The download of CIFAR-100."""

from __future__ import annotations

from pathlib import Path

from famba_core.config import ConfigError

REPOSITORY = "uoft-cs/cifar100"


def download_cifar100(folder: Path) -> Path:
    """Download the public Parquet set (about 140 MB) from the Hugging Face hub to `folder`/cifar100 and return that.

    Complete files that exist already are not downloaded again. Raises ConfigError if the network or the disk fails.
    """
    from huggingface_hub import snapshot_download

    target = folder / "cifar100"
    try:
        snapshot_download(REPOSITORY, repo_type="dataset", allow_patterns=["*.parquet"], local_dir=target)
    except Exception as error:  # the hub's releases raise the errors of different HTTP libraries
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError.of("dataset", f"{REPOSITORY} could not be downloaded to {target} ({reason})") from error
    return target
