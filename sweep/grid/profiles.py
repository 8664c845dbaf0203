"""The profiles of a grid: the same cases at the paper's size, and smaller for smaller machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from famba_core.config import AugmentConfig, DataConfig, ModelConfig, TrainConfig
from sweep.grid.resources import Resources
from sweep.grid.validator import Validator, field_types


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The model, data and training that every case of a grid gets."""

    models: tuple[ModelConfig, ...]  # one for each backbone; num_classes is filled in from the data set
    data: DataConfig
    augment: AugmentConfig
    train: TrainConfig  # its seed is filled in from the grid's seeds
    resources: Resources


_MODEL_KEYS = field_types(ModelConfig, without={"num_classes"}) | {"backbone": list[str]}
_PARTS = {
    "data": (DataConfig, field_types(DataConfig)),
    "augment": (AugmentConfig, field_types(AugmentConfig)),
    "train": (TrainConfig, field_types(TrainConfig, without={"seed"})),
    "resources": (Resources, field_types(Resources)),
}
PROFILE_KEYS = {**_MODEL_KEYS, **{key: type_ for _, keys in _PARTS.values() for key, type_ in keys.items()}}


def read_profiles(section: Mapping[str, Any], validator: Validator) -> dict[str, Profile]:
    """Return every profile by its name; problems go to `validator`."""
    profiles = {str(name): _profile(values, f"profiles.{name}", validator) for name, values in section.items()}
    return {name: profile for name, profile in profiles.items() if profile}


def _profile(values: Any, key: str, validator: Validator) -> Profile | None:
    if isinstance(values, dict) and not isinstance(values.get("backbone", []), list):
        values = {**values, "backbone": [values["backbone"]]}
    good = validator.mapping(values, key, PROFILE_KEYS)

    def part(config_type: type, keys: Mapping[str, Any], **chosen: Any) -> Any:
        # Skip the checks of a part with a value of the wrong type: they would see the default that replaces it.
        if any(name in values and name not in good for name in keys):
            return None
        return validator.config(config_type, {name: good[name] for name in keys if name in good} | chosen, key)

    if not isinstance(values, dict):
        return None
    parts = {name: part(config_type, keys) for name, (config_type, keys) in _PARTS.items()}
    backbones = good.get("backbone", [ModelConfig.backbone])
    if not backbones or len(set(backbones)) < len(backbones):
        validator.add(f"{key}.backbone", f"must list at least one backbone, each once, not {backbones}")
    models = tuple(part(ModelConfig, _MODEL_KEYS, backbone=backbone) for backbone in backbones)
    return Profile(models=models, **parts) if all(models) and all(parts.values()) else None
