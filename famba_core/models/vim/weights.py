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

# from torch.compile, FSDP and activation checkpointing, which may wrap any part of a model
_PARTS_OF_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_PUBLISHED_SIZE = 224  # pixels, of the images of the published weights


def load_checkpoint(
    model: Vim, source: Path | str | Mapping[str, object], *, cls_position: ClsPosition | None = None
) -> tuple[str, ...]:
    """Load weights with the official names into `model`; see `famba_core.models.registry.load_checkpoint`.

    Position embeddings are reordered if the class token has another position, and resized (bicubic) if the number of
    patches differs. The head keeps its values if the number of classes differs. What wrappers such as
    DistributedDataParallel put before the names is taken off. All other names and shapes must agree.
    """
    content = _read(Path(source)) if isinstance(source, str | Path) else source
    state, notes = _unwrap(_weights(content))
    cls_position = _class_position(content, cls_position)
    own = model.state_dict()
    positions, width = state.get("pos_embed"), own["pos_embed"].shape[2]
    if positions is not None and positions.ndim == 3 and positions.shape[::2] == (1, width):
        state["pos_embed"], changes = _fit_positions(positions, model, cls_position)
        notes += changes
    classes, head = model.config.num_classes, state.get("head.weight")
    if head is not None and head.ndim == 2 and head.shape[0] != classes:
        notes.append(f"head not loaded: it has {head.shape[0]} classes, but the model has {classes}")
        state["head.weight"], state["head.bias"] = own["head.weight"], own["head.bias"]
    if problems := _mismatches(state, own, model.config.backbone):
        raise ConfigError.of("checkpoint", *problems)
    model.load_state_dict(state, strict=True)
    return tuple(notes)


def _mismatches(state: Mapping[str, Tensor], own: Mapping[str, Tensor], backbone: str) -> list[str]:
    """Return a sentence for each name, shape or kind of values in which a state dict differs from the model's own."""
    if not any(name in own for name in state):
        return [f"none of its names is that of a weight of {backbone}; the first is {next(iter(state))}"]
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is not a weight of {backbone}" for name in state if name not in own]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, but {backbone} needs {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems += [
        f"{name} must be floating-point numbers in memory, not {value.dtype} on {value.device}"
        for name, value in state.items()
        if name in own and (value.is_meta or not value.is_floating_point())
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
    except (pickle.UnpicklingError, LookupError, TypeError, AttributeError) as error:
        # torch's message for UnpicklingError suggests unsafe reading; random bytes raise the others
        reason = "it is damaged, or contains code"
        if refused := re.search(r"GLOBAL (\w[\w.]*)", str(error)):
            reason = f"it contains a {refused[1]}, and only tensors, numbers, text and their containers are read"
        raise ConfigError.of("checkpoint", f"{path} is not a file of plain weights: {reason}") from None


def _weights(content: object) -> dict[str, Tensor]:
    state = _state_in(content)
    rule = "must be a state dict, or have one under 'model' or 'state_dict'"
    if not isinstance(state, Mapping) or not state:
        raise ConfigError.of("checkpoint", f"{rule}; this {type(state).__name__} is none, or empty")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ConfigError.of("checkpoint", f"{rule}; {name!r} is of type {type(value).__name__}, not a tensor")
    return {str(name): value for name, value in state.items()}


def _state_in(content: object) -> object:
    """Return the state dict that a file's content is or has."""
    if not isinstance(content, Mapping):
        return content
    return next((content[key] for key in ("model", "state_dict") if key in content), content)


def _unwrap(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights without what wrappers put before and into their names, and a sentence for each such part."""
    notes = []
    for part in _PARTS_OF_WRAPPERS:
        if any(part in name for name in state):
            notes.append(f"{part!r} taken off the names of the weights")
            state = {name.replace(part, ""): value for name, value in state.items()}
    prefixes = [name.removesuffix("pos_embed") for name in state if f".{name}".endswith(".pos_embed")]
    if not prefixes or "" in prefixes:
        return state, notes
    if len(prefixes) > 1:
        sentence = f"has several models, whose names begin with {', '.join(prefixes)}; pass the weights of one"
        raise ConfigError.of("checkpoint", sentence)
    prefix = prefixes[0]
    notes.append(f"{prefix!r} taken off the names of the weights")
    if others := [name for name in state if not name.startswith(prefix)]:
        notes.append(f"not weights of the model, left out: {', '.join(others)}")
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}, notes


def _class_position(content: object, given: ClsPosition | None) -> ClsPosition:
    """Return where the source keeps its class token. Raises ConfigError if it says otherwise than `given`."""
    metadata = getattr(_state_in(content), "_metadata", None)  # from `Vim.state_dict`
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
    side = round(max(0, patches) ** 0.5)
    if side < 1 or side * side != patches:
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
        if side in (2 * new_side - 1, 2 * (_PUBLISHED_SIZE // model.config.patch) - 1):
            overlap = f"{side} x {side} are the patches of a model whose patches overlap by half"
            notes.append(f"{overlap}; here they do not overlap, so the accuracy is not that of the source")
    if cls_position != model.config.cls_position:
        moved = f"from the {cls_position} to the {model.config.cls_position}"
        notes.append(f"class token's position embedding moved {moved}")
    at = model.class_position
    return torch.cat((of_patches[:, :at], of_class, of_patches[:, at:]), dim=1), notes
