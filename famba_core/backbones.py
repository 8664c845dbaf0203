"""The backbones: named sizes of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Sizes of a model."""

    family: str = "vim"  # the architecture, which famba_core/models builds
    width: int  # D, channels of the residual stream
    depth: int  # number of layers
    state_size: int  # N, states per inner channel
    patch_size: int  # pixels, side of a square patch
    stands_for: str | None = None  # the published backbone that a narrow one replaces


_backbones = {
    "vim_tiny": Backbone(width=192, depth=24, state_size=16, patch_size=16),
    "vim_small": Backbone(width=384, depth=24, state_size=16, patch_size=16),
    "vim_base": Backbone(width=768, depth=24, state_size=16, patch_size=16),
    # Same depth as the published models, so that every case of the paper's tables can run on small images.
    "vim_nano": Backbone(width=16, depth=24, state_size=4, patch_size=4, stands_for="vim_tiny"),
    "vim_nano_small": Backbone(width=32, depth=24, state_size=4, patch_size=4, stands_for="vim_small"),
    "vim_micro": Backbone(width=32, depth=24, state_size=4, patch_size=4, stands_for="vim_tiny"),
    "vim_micro_small": Backbone(width=64, depth=24, state_size=4, patch_size=4, stands_for="vim_small"),
}
BACKBONES: Mapping[str, Backbone] = MappingProxyType(_backbones)  # shows later registrations too


def register_backbone(name: str, sizes: Backbone) -> None:
    """Make a backbone known under `name`. Raises ValueError for a name that is taken."""
    if name in _backbones:
        raise ValueError(f"backbone {name!r} is registered already")
    _backbones[name] = sizes


def unregister_backbone(name: str) -> None:
    """Remove a registered backbone."""
    del _backbones[name]
