"""Vision Mamba with token fusion across layers (Famba-V), and its trainer."""

from __future__ import annotations

import importlib
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


# torch takes seconds to import, and a plan does not need it
_LAZY = {"build_model": "famba_core.models.registry", "load_checkpoint": "famba_core.models.registry"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
