"""Official Vim weights: read safely, fitted to this model's image size, class token place and classes."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from famba_core.config import ClsPosition, ConfigError
from famba_core.models.vim.model import Vim


def load_checkpoint(
    model: Vim, source: Path | str | Mapping[str, object], *, cls_position: ClsPosition = "middle"
) -> tuple[str, ...]:
    """Load weights in the official layout into `model`, in place.

    The position embeddings are reordered when the class token stands elsewhere, and resized (bicubic) when the
    number of patches differs; the head is left as it is when the number of classes differs. Everything else must
    agree in name and shape.

    Args:
        source: a file, or its contents; the weights may stand under "model".
        cls_position: where the source keeps its class token; "middle" in the official weights.

    Returns a sentence for each conversion made. Raises ConfigError for a file that cannot be read safely or that is
    not a Vision Mamba's, and for names or shapes that do not fit, listing all of them; the model is then unchanged.
    """
    state = _weights(_read(Path(source)) if isinstance(source, str | Path) else source)
    own = model.state_dict()
    notes = []
    if (
        "pos_embed" in state
        and state["pos_embed"].ndim == 3
        and state["pos_embed"].shape[2] == own["pos_embed"].shape[2]
    ):
        converted, changes = _fit_positions(state["pos_embed"], model, cls_position)
        state["pos_embed"] = converted
        notes += changes
    if "head.weight" in state and state["head.weight"].shape[0] != model.config.num_classes:
        notes.append(
            f"head of {state['head.weight'].shape[0]} classes left out, for the model has {model.config.num_classes}"
        )
        state["head.weight"], state["head.bias"] = own["head.weight"], own["head.bias"]
    problems = [("checkpoint", f"{name} is missing") for name in own if name not in state]
    problems += [
        ("checkpoint", f"{name} is not a weight of {model.config.backbone}") for name in state if name not in own
    ]
    problems += [
        (
            "checkpoint",
            f"{name} is {tuple(state[name].shape)}, and {model.config.backbone} has {tuple(own[name].shape)}",
        )
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if problems:
        raise ConfigError(problems)
    model.load_state_dict(state, strict=True)
    return tuple(notes)


def _read(path: Path) -> object:
    try:
        # official files hold their command line beside the weights
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError([("checkpoint", f"{path} is not there")]) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError([("checkpoint", f"{path} is not a file of plain weights: {reason}")]) from None
    except (pickle.UnpicklingError, LookupError, TypeError, AttributeError):
        # torch's own sentence advises to read the file unsafely; the others are what random bytes make of its reader
        reason = "it is damaged, or holds code"
        raise ConfigError([("checkpoint", f"{path} is not a file of plain weights: {reason}")]) from None


def _weights(content: object) -> dict[str, Tensor]:
    state = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError([("checkpoint", "holds no state dict, neither as a whole nor under 'model'")])
    return {str(name): value for name, value in state.items()}


def _fit_positions(positions: Tensor, model: Vim, cls_position: ClsPosition) -> tuple[Tensor, list[str]]:
    """pos_embed [1, patches + 1, D] of the source as the model wants it, and what was changed."""
    notes = []
    patches = positions.shape[1] - 1
    side = round(patches**0.5)
    if side * side != patches:
        raise ConfigError(
            [("checkpoint", f"pos_embed has {patches + 1} tokens: not a square of patches and a class token")]
        )
    at = patches // 2 if cls_position == "middle" else 0
    of_class, of_patches = positions[:, at : at + 1], torch.cat((positions[:, :at], positions[:, at + 1 :]), dim=1)
    if patches != model.config.num_patches:
        new_side = model.config.image_size // model.config.patch
        grid = of_patches.float().transpose(1, 2).unflatten(2, (side, side))
        resized = F.interpolate(grid, size=(new_side, new_side), mode="bicubic", align_corners=False)
        of_patches = resized.flatten(2).transpose(1, 2).to(positions.dtype)
        notes.append(f"position embeddings resized from {side} x {side} to {new_side} x {new_side} patches")
    if cls_position != model.config.cls_position:
        notes.append(
            f"class token's position embedding moved from the {cls_position} to the {model.config.cls_position}"
        )
    at = model.class_position
    return torch.cat((of_patches[:, :at], of_class, of_patches[:, at:]), dim=1), notes
