"""Weights from files: read safely, and converted to the model's image size, class token position and classes."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from famba_core.config import ClsPosition, ConfigError
from famba_core.models.vim.model import Vim


def load_checkpoint(
    model: Vim, source: Path | str | Mapping[str, object], *, cls_position: ClsPosition | None = None
) -> tuple[str, ...]:
    """Load weights with the official names into `model`; see `famba_core.models.registry.load_checkpoint`.

    Position embeddings are reordered if the class token has another position, and resized (bicubic) if the number of
    patches differs. The head keeps its values if the number of classes differs. All other names and shapes must agree.
    """
    content = _read(Path(source)) if isinstance(source, str | Path) else source
    state = _weights(content)
    cls_position = _class_position(content, cls_position)
    own = model.state_dict()
    notes: list[str] = []
    positions, width = state.get("pos_embed"), own["pos_embed"].shape[2]
    if positions is not None and positions.ndim == 3 and positions.shape[2] == width:
        state["pos_embed"], notes = _fit_positions(positions, model, cls_position)
    classes = model.config.num_classes
    if "head.weight" in state and (found := state["head.weight"].shape[0]) != classes:
        notes.append(f"head not loaded: it has {found} classes, but the model has {classes}")
        state["head.weight"], state["head.bias"] = own["head.weight"], own["head.bias"]
    if problems := _mismatches(state, own, model.config.backbone):
        raise ConfigError.of("checkpoint", *problems)
    model.load_state_dict(state, strict=True)
    return tuple(notes)


def _mismatches(state: Mapping[str, Tensor], own: Mapping[str, Tensor], backbone: str) -> list[str]:
    """Return a sentence for each name or shape in which a state dict differs from the model's own."""
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is not a weight of {backbone}" for name in state if name not in own]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, but {backbone} needs {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    return problems


def _read(path: Path) -> object:
    try:
        # official files also contain their command line
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError.of("checkpoint", f"{path} does not exist") from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError.of("checkpoint", f"{path} is not a file of plain weights: {reason}") from None
    except (pickle.UnpicklingError, LookupError, TypeError, AttributeError):
        # torch's message for UnpicklingError suggests unsafe reading; random bytes raise the others
        reason = "it is damaged, or contains code"
        raise ConfigError.of("checkpoint", f"{path} is not a file of plain weights: {reason}") from None


def _weights(content: object) -> dict[str, Tensor]:
    state = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError.of("checkpoint", "must be a state dict, or have one under 'model'")
    return {str(name): value for name, value in state.items()}


def _class_position(content: object, given: ClsPosition | None) -> ClsPosition:
    """Return where the source keeps its class token. Raises ConfigError if it says otherwise than `given`."""
    state = content.get("model", content) if isinstance(content, Mapping) else content
    metadata = getattr(state, "_metadata", None)  # from `Vim.state_dict`
    notes = metadata.values() if isinstance(metadata, Mapping) else ()
    noted = [note["cls_position"] for note in notes if isinstance(note, Mapping) and "cls_position" in note]
    # the first checkpoints of famba-train have the configuration of the model in a text
    identity = str(content.get("identity")) if isinstance(content, Mapping) else ""
    found = noted or re.findall("cls_position='(head|middle)'", identity)
    if found and given and found[0] != given:
        raise ConfigError.of("cls_position", f"is {given!r}, but the source has its class token at the {found[0]}")
    position: ClsPosition = found[0] if found else given or "middle"
    return position


def _fit_positions(positions: Tensor, model: Vim, cls_position: ClsPosition) -> tuple[Tensor, list[str]]:
    """Convert pos_embed [1, patches + 1, D] of the source to the model's. Returns also a sentence for each change."""
    notes = []
    patches = positions.shape[1] - 1
    side = round(patches**0.5)
    if side * side != patches:
        sentence = f"pos_embed has {patches + 1} tokens; it must have a square number of patches and a class token"
        raise ConfigError.of("checkpoint", sentence)
    at = patches // 2 if cls_position == "middle" else 0
    of_class, of_patches = positions[:, at : at + 1], torch.cat((positions[:, :at], positions[:, at + 1 :]), dim=1)
    if patches != model.config.num_patches:
        new_side = model.config.image_size // model.config.patch
        grid = of_patches.float().transpose(1, 2).unflatten(2, (side, side))
        resized = F.interpolate(grid, size=(new_side, new_side), mode="bicubic", align_corners=False)
        of_patches = resized.flatten(2).transpose(1, 2).to(positions.dtype)
        notes.append(f"position embeddings resized from {side} x {side} to {new_side} x {new_side} patches")
    if cls_position != model.config.cls_position:
        moved = f"from the {cls_position} to the {model.config.cls_position}"
        notes.append(f"class token's position embedding moved {moved}")
    at = model.class_position
    return torch.cat((of_patches[:, :at], of_class, of_patches[:, at:]), dim=1), notes
