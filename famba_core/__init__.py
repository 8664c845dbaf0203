"""Vision Mamba with token fusion across layers (Famba-V), and its trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from famba_core.config import (
    AugmentConfig,
    ConfigError,
    DataConfig,
    FusionConfig,
    FusionSchedule,
    ModelConfig,
    TokenGrid,
    TrainConfig,
)
from famba_core.fusion.schedule import resolve, token_schedule

if TYPE_CHECKING:
    from famba_core.models.vim.model import build_model
    from famba_core.models.vim.weights import load_checkpoint

__all__ = [
    "AugmentConfig",
    "ConfigError",
    "DataConfig",
    "FusionConfig",
    "FusionSchedule",
    "ModelConfig",
    "TokenGrid",
    "TrainConfig",
    "build_model",
    "load_checkpoint",
    "resolve",
    "token_schedule",
]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and a plan does not need it
    if name == "build_model":
        from famba_core.models.vim.model import build_model

        return build_model
    if name == "load_checkpoint":
        from famba_core.models.vim.weights import load_checkpoint

        return load_checkpoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
