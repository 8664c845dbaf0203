"""Vision Mamba with token fusion, one image and one token at a time, differentiable by autograd.

Written from the paper's equations. It shares only the names of the weights with the package under test.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from fusion_twin import choose_pairs, fuse, order_after
from torch import Tensor

State = Mapping[str, Tensor]


def vim_logits(
    state: State,
    images: Tensor,
    *,
    patch: int,
    class_at: int,
    schedule: Sequence[int],
    order: str = "concat",
    weighting: str = "mean",
) -> Tensor:
    """Classify images [B, 3, H, W]. Returns logits [B, classes] in the dtype of `state`."""
    return torch.stack([_one_image(state, image, patch, class_at, schedule, order, weighting) for image in images])


def _one_image(
    state: State, image: Tensor, patch: int, class_at: int, schedule: Sequence[int], order: str, weighting: str
) -> Tensor:
    tokens = _patches(state, image, patch)
    tokens.insert(class_at, state["cls_token"][0, 0])
    residual = [token + place for token, place in zip(tokens, state["pos_embed"][0], strict=True)]
    patches_in = [1.0] * len(residual)
    for layer, r in enumerate(schedule):
        weights = {name.removeprefix(f"layers.{layer}."): value for name, value in state.items()
                   if name.startswith(f"layers.{layer}.")}  # fmt: skip
        hidden = [_rms_norm(token, weights["norm.weight"]) for token in residual]
        if r > 0:
            pairs = choose_pairs(torch.stack(hidden).detach(), r, class_at)
            counts = patches_in if weighting == "size" else [1.0] * len(residual)
            class_at = order_after(len(residual), pairs, order).index(class_at)
            hidden, residual = fuse(hidden, counts, pairs, order), fuse(residual, counts, pairs, order)
            patches_in = _sum_sizes(patches_in, pairs, order)
        mixed = _mixer(weights, hidden)
        residual = [old + new for old, new in zip(residual, mixed, strict=True)]
    final = _rms_norm(residual[class_at], state["norm_f.weight"])
    return state["head.weight"] @ final + state["head.bias"]


def _patches(state: State, image: Tensor, patch: int) -> list[Tensor]:
    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    rows, columns = image.shape[1] // patch, image.shape[2] // patch
    return [
        (weight * image[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]).sum((1, 2, 3)) + bias
        for y in range(rows)
        for x in range(columns)
    ]


def _sum_sizes(sizes: list[float], pairs: dict[int, int], order: str) -> list[float]:
    return [sizes[i] + sum(sizes[a] for a, b in pairs.items() if b == i) for i in order_after(len(sizes), pairs, order)]


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean() + 1e-5) * weight


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _mixer(weights: State, hidden: list[Tensor]) -> list[Tensor]:
    both = [weights["mixer.in_proj.weight"] @ token for token in hidden]
    inner = len(both[0]) // 2
    forwards = _direction(weights, [token[:inner] for token in both], "")
    backwards = _direction(weights, [token[:inner] for token in reversed(both)], "_b")[::-1]
    return [
        weights["mixer.out_proj.weight"] @ ((f + b) / 2 * _silu(token[inner:]))
        for f, b, token in zip(forwards, backwards, both, strict=True)
    ]


def _direction(weights: State, x: list[Tensor], suffix: str) -> list[Tensor]:
    """Apply convolution, SiLU and selective scan to a sequence, in the given order."""
    kernel, bias = weights[f"mixer.conv1d{suffix}.weight"][:, 0], weights[f"mixer.conv1d{suffix}.bias"]
    decay_rate = -torch.exp(weights[f"mixer.A{suffix}_log"])
    rank, states = math.ceil(len(weights["norm.weight"]) / 16), decay_rate.shape[1]
    h, outputs = torch.zeros_like(decay_rate), []
    for t in range(len(x)):
        past = sum((kernel[:, 3 - k] * x[t - k] for k in range(4) if t >= k), start=bias)
        u = _silu(past)
        dt, B, C = (weights[f"mixer.x_proj{suffix}.weight"] @ u).split([rank, states, states])
        raw = weights[f"mixer.dt_proj{suffix}.weight"] @ dt + weights[f"mixer.dt_proj{suffix}.bias"]
        step = torch.log1p(torch.exp(raw))
        h = torch.exp(step[:, None] * decay_rate) * h + step[:, None] * B[None, :] * u[:, None]
        outputs.append(h @ C + weights[f"mixer.D{suffix}"] * u)
    return outputs
