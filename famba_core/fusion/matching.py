"""Token fusion in one layer: which tokens fuse, and the merge (Famba-V section 3.2).

Even positions form set A, odd ones set B. Each A token's partner is the B token that is most similar to it by
cosine; the r A tokens with the highest similarity fuse into their partners. The class token takes no part.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from famba_core.config import Order, Weighting


class Match(NamedTuple):
    """Where every token goes."""

    target: Tensor  # [B, L] index in the shortened sequence
    length: int  # L - r
    class_index: Tensor  # [B] place of the class token afterwards


class Merge(NamedTuple):
    """How the tokens of a layer fuse: out[target[t]] is the sum of share[t] x[t]."""

    target: Tensor  # [B, L] int64, index in the shortened sequence
    share: Tensor  # [B, L] float32, weight in the target's mean
    length: int  # L - r


@torch.no_grad()
def match(metric: Tensor, r: int, class_index: Tensor, order: Order) -> Match:
    """Choose the r tokens of each image that fuse, and their partners.

    Args:
        metric: [B, L, D], compared by cosine.
        r: tokens to remove, at most (L - 1) // 2.
        class_index: [B], place of the class token in each image.
        order: "concat" puts the A tokens that stay before the B tokens, "raster" leaves all in place.
    """
    batch, length, _ = metric.shape
    rows = torch.arange(batch, device=metric.device)
    unit = F.normalize(metric.float(), dim=-1)
    is_class = torch.arange(length, device=metric.device) == class_index.unsqueeze(1)
    with torch.autocast(metric.device.type, enabled=False):  # rounded similarities would tie
        similarity = unit[:, 0::2] @ unit[:, 1::2].transpose(1, 2)
    similarity.masked_fill_(is_class[:, 0::2, None] | is_class[:, None, 1::2], -torch.inf)
    best, odd = similarity.max(dim=-1)
    partner = 2 * odd + 1
    if length == 3:
        # a class token in the middle is all of B, so the last token fuses into the first
        stranded = (class_index == 1).unsqueeze(1)
        best[:, 1:].masked_fill_(stranded, 1.0)
        partner.masked_fill_(stranded, 0)
    fused_a = best.topk(r, dim=-1).indices

    removed = torch.zeros_like(is_class).scatter_(1, 2 * fused_a, True)
    kept = ~removed
    if order == "raster":
        target = kept.cumsum(1) - 1
    else:
        target = torch.empty_like(kept, dtype=torch.long)
        target[:, 0::2] = kept[:, 0::2].cumsum(1) - 1
        target[:, 1::2] = torch.arange(kept[:, 0::2].shape[1] - r, length - r, device=metric.device)
    partner_target = target.gather(1, partner.gather(1, fused_a))
    target.scatter_(1, 2 * fused_a, partner_target)
    return Match(target, length - r, target[rows, class_index])


def shares(matched: Match, sizes: Tensor, weighting: Weighting) -> tuple[Merge, Tensor]:
    """How much each token counts in the mean that its target becomes.

    Args:
        sizes: patches that each token stands for [B, L].
        weighting: "mean" counts every token once, "size" by its patches.

    Returns the merge, and the sizes afterwards [B, L - r].
    """
    target, length, _ = matched
    after = sizes.new_zeros(sizes.shape[0], length)
    merged_sizes = after.scatter_add(1, target, sizes)
    counts = merged_sizes if weighting == "size" else after.scatter_add(1, target, torch.ones_like(sizes))
    weights = sizes if weighting == "size" else 1.0
    return Merge(target, weights / counts.gather(1, target), length), merged_sizes


def merge_tokens(x: Tensor, merge: Merge) -> Tensor:
    """Replace all tokens of x [B, L, D] with one target by their weighted mean: [B, L - r, D]."""
    out: Tensor = _MergeTokens.apply(x, merge.target, merge.share, merge.length)
    return out


class _MergeTokens(torch.autograd.Function):
    """Its backward needs no token, which autograd would keep for the product with the shares."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, share: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(target, share)
        batch, _, width = x.shape
        out = x.new_zeros(batch, length, width)
        return out.scatter_add_(1, _rows(target, width), x * share.unsqueeze(-1).to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        target, share = ctx.saved_tensors
        rows = grad_out.gather(1, _rows(target, grad_out.shape[2]))
        return rows * share.unsqueeze(-1).to(rows.dtype), None, None, None


def _rows(target: Tensor, width: int) -> Tensor:
    return target.unsqueeze(-1).expand(-1, -1, width)
