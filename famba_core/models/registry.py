"""Families of backbones: which class builds a model, and which function reads its published weights.

docs/add-a-backbone.md describes how to add one. A family is imported when a model of it is built.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from famba_core.config import ClsPosition, ConfigError, FusionConfig, FusionSchedule, ModelConfig
from famba_core.fusion.schedule import resolve

if TYPE_CHECKING:
    from famba_core.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the models of a family are built, and how weights are loaded into them."""

    build: Callable[[ModelConfig, FusionSchedule, str], Classifier]
    load_checkpoint: Callable[..., tuple[str, ...]]


def _vim() -> Family:
    from famba_core.models.vim.model import Vim
    from famba_core.models.vim.weights import load_checkpoint

    return Family(build=Vim, load_checkpoint=load_checkpoint)


FAMILIES: dict[str, Callable[[], Family]] = {"vim": _vim}


def build_model(
    config: ModelConfig, fusion: FusionConfig | FusionSchedule | None = None, backend: str = "auto"
) -> Classifier:
    """Build a model with new weights from torch's global generator, in float32 whatever torch's default dtype is.

    Args:
        fusion: None does not fuse.
        backend: name of a registered backend; "auto" takes the fastest one where the model runs.

    Raises ConfigError for a strategy, layer or schedule that does not fit the backbone, and for an unknown backend.
    """
    from famba_core.ops.registry import check_backend

    check_backend(backend)
    schedule = resolve(fusion or FusionConfig(), config.token_grid)
    family = family_of(config)
    with _default_float32():
        return family.build(config, schedule, backend)


def load_checkpoint(
    model: Classifier, source: Path | str | Mapping[str, object], *, cls_position: ClsPosition | None = None
) -> tuple[str, ...]:
    """Load weights into `model`, in place, and convert what differs in a known way.

    Args:
        source: a file, or its contents; the weights may stand under "model", as in official files and checkpoints of
            famba-train.
        cls_position: where the source keeps its class token. None takes what the source says; state dicts and
            checkpoints of this package do. Where it says nothing: "middle", as in the official weights of Vim.

    Returns a sentence for each conversion. Raises ConfigError for a file that cannot be read safely, and for names or
    shapes that do not fit, listing all of them; the model is unchanged then.
    """
    return family_of(model.config).load_checkpoint(model, source, cls_position=cls_position)


@contextlib.contextmanager
def _default_float32() -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def family_of(config: ModelConfig) -> Family:
    """Return the family of the configuration's backbone. Raises ConfigError for an unknown one."""
    name = config.sizes.family
    if name not in FAMILIES:
        sentence = f"the family of {config.backbone} is {name!r}; it must be one of {', '.join(FAMILIES)}"
        raise ConfigError.of("backbone", sentence)
    return FAMILIES[name]()
