"""Vision Mamba with token fusion across layers (Famba-V), and its trainer."""

from __future__ import annotations

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
from famba_core.models.registry import build_model, load_checkpoint

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


def __dir__() -> list[str]:
    return __all__
