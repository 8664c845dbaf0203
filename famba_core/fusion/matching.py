"""Token fusion in one layer: matching and merging (Famba-V section 3.2).

Tokens at even positions form set A, those at odd positions set B. The partner of an A token is the B token with the
highest cosine similarity. The r A tokens most similar to their partners fuse into them. The class token never fuses.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from famba_core.config import Order, Weighting
from famba_core.device import without_autocast


class Match(NamedTuple):
    """New position of each token."""

    target: Tensor  # [B, L] index in the shortened sequence
    length: int  # L - r
    class_index: Tensor  # [B] position of the class token afterwards


class Merge(NamedTuple):
    """Weighted mean that fuses tokens: out[i] is the sum of share[t] x[t] over all t with target[t] = i."""

    target: Tensor  # [B, L] int64, index in the shortened sequence
    share: Tensor  # [B, L] float32, weight in the mean of the target
    length: int  # L - r


@torch.no_grad()
def match(metric: Tensor, r: int, class_index: Tensor, order: Order) -> Match:
    """Choose the r tokens of each image that fuse, and their partners.

    Args:
        metric: [B, L, D], compared by cosine similarity.
        r: tokens to remove, at most (L - 1) // 2.
        class_index: [B], position of the class token in each image.
        order: "concat" puts the remaining A tokens before the B tokens, "raster" keeps the order of the positions.
    """
    batch, length, _ = metric.shape
    rows = torch.arange(batch, device=metric.device)
    unit = F.normalize(metric.to(torch.promote_types(metric.dtype, torch.float32)), dim=-1)
    is_class = torch.arange(length, device=metric.device) == class_index.unsqueeze(1)
    with without_autocast(metric.device):  # rounding would make similarities equal
        similarity = unit[:, 0::2] @ unit[:, 1::2].transpose(1, 2)
    similarity.masked_fill_(is_class[:, 0::2, None] | is_class[:, None, 1::2], -torch.inf)
    best, odd = similarity.max(dim=-1)
    partner = 2 * odd + 1
    if length == 3:
        # if the class token is the only one in B, the last token fuses into the first
        stranded = (class_index == 1).unsqueeze(1)
        best[:, 1:].masked_fill_(stranded, 1.0)
        partner.masked_fill_(stranded, 0)
    fused_a = best.topk(r, dim=-1).indices

    removed = torch.zeros_like(is_class).scatter_(1, 2 * fused_a, 1)  # not True, which a trace cannot record
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
    """Compute each token's weight in the mean of its target.

    Args:
        sizes: number of patches merged in each token so far [B, L].
        weighting: "mean" weighs all tokens equally, "size" by their patches.

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
    if torch._C._get_tracing_state() is not None:  # a trace cannot record a function with a backward of its own
        return _sum_shares(x, merge.target, merge.share, merge.length)
    out: Tensor = _MergeTokens.apply(x, merge.target, merge.share, merge.length)
    return out


def _sum_shares(x: Tensor, target: Tensor, share: Tensor, length: int) -> Tensor:
    batch, _, width = x.shape
    return x.new_zeros(batch, length, width).scatter_add_(1, _rows(target, width), x * share.unsqueeze(-1).to(x.dtype))


class _MergeTokens(torch.autograd.Function):
    """Merge whose backward does not need x; autograd would keep it for the product with the shares."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, share: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(target, share)
        return _sum_shares(x, target, share, length)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        target, share = ctx.saved_tensors
        rows = grad_out.gather(1, _rows(target, grad_out.shape[2]))
        return rows * share.unsqueeze(-1).to(rows.dtype), None, None, None


def _rows(target: Tensor, width: int) -> Tensor:
    return target.unsqueeze(-1).expand(-1, -1, width)
