"""The settings of a run as its checkpoint stores them: by name, so that a difference can be named."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any

from famba_core.config import AugmentConfig, DataConfig, FusionConfig, FusionSchedule, ModelConfig, TrainConfig
from famba_core.fusion.schedule import resolve

CHECKPOINT_FORMAT = 1  # raise it when the content of a checkpoint changes

_DEFAULTS = {
    field.name: field.default
    for config in (ModelConfig, FusionSchedule, DataConfig, AugmentConfig, TrainConfig)
    for field in fields(config)
    if field.default is not MISSING
}


def run_settings(
    model: ModelConfig, fusion: FusionSchedule, data: DataConfig, augment: AugmentConfig, train: TrainConfig
) -> dict[str, Any]:
    """Return everything by name that a checkpoint and the run that resumes from it must share."""
    settings = {"format": CHECKPOINT_FORMAT}
    for config in (model, fusion, data, augment, train):
        settings |= asdict(config)
    del settings["data_dir"]  # data may move
    return settings


def describe_differences(checkpoint: object, settings: Mapping[str, Any]) -> str | None:
    """Return the settings in which a checkpoint differs from `settings`, as text; "" if in none.

    A setting that the checkpoint lacks is of a later version, and had its default. None for a checkpoint without
    settings that can be read.
    """
    stored = _stored_settings(checkpoint)
    if stored is None:
        return None
    then = {name: stored.get(name, _DEFAULTS.get(name)) for name in {**settings, **stored}}
    return ", ".join(
        f"{name} {then[name]!r} (now {settings.get(name)!r})" for name in then if then[name] != settings.get(name)
    )


def _stored_settings(checkpoint: object) -> dict[str, Any] | None:
    if not isinstance(checkpoint, dict):
        return None
    if isinstance(settings := checkpoint.get("settings"), dict):
        return settings
    try:
        return _parse_identity(checkpoint["identity"])
    except (KeyError, TypeError, ValueError, SyntaxError, AttributeError):  # ConfigError is a ValueError
        return None


def _parse_identity(text: str) -> dict[str, Any]:
    """Read the settings from the text that the first checkpoints have: the repr of a tuple of the configurations.

    Its fusion is a schedule, or labels, from which the schedule follows.
    """
    version, model, fusion, dataset, *images, augment, train = ast.parse(text, mode="eval").body.elts  # type: ignore[attr-defined]
    model_config, labels = ModelConfig(**_arguments(model)), _arguments(fusion)
    schedule = labels.pop("schedule", None)
    merge = {name: labels[name] for name in ("order", "weighting")}
    requested = FusionConfig(**labels) if schedule is None else FusionSchedule(schedule=schedule, **merge)
    data = map(ast.literal_eval, (dataset, *images))
    return {
        "format": ast.literal_eval(version),
        **asdict(model_config),
        **asdict(resolve(requested, model_config.token_grid)),
        **dict(zip(("dataset", "train_images", "test_images"), data, strict=False)),
        **_arguments(augment),
        **_arguments(train),
    }


def _arguments(call: ast.Call) -> dict[str, Any]:
    """Return the keyword arguments of a call in a parsed text."""
    return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
