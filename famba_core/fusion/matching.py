"""Token fusion in one layer: which tokens fuse, and the merge (Famba-V section 3.2).

Even positions form set A, odd ones set B. Each A token's partner is the B token that is most similar to it by
cosine; the r A tokens with the highest similarity fuse into their partners. The class token takes no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from famba_core.config import Order, Weighting


class Match(NamedTuple):
    """Where every token goes."""

    target: Tensor  # [B, L] index in the shortened sequence
    length: int  # L - r
    class_index: Tensor  # [B] place of the class token afterwards


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


def merge(tokens: Sequence[Tensor], sizes: Tensor, matched: Match, weighting: Weighting) -> tuple[list[Tensor], Tensor]:
    """Replace all tokens with one target by their mean.

    Args:
        tokens: any number of [B, L, D], fused alike.
        sizes: patches that each token stands for [B, L].
        weighting: "mean" counts every token once, "size" by its patches.

    Returns the tokens as [B, L - r, D], and the sizes [B, L - r].
    """
    merged_sizes = _sum_by_target(sizes.unsqueeze(-1), matched)
    if weighting == "size":
        merged = [_sum_by_target(x * sizes.unsqueeze(-1), matched) / merged_sizes for x in tokens]
    else:
        counts = _sum_by_target(torch.ones_like(sizes).unsqueeze(-1), matched)
        merged = [_sum_by_target(x, matched) / counts for x in tokens]
    return merged, merged_sizes.squeeze(-1)


def _sum_by_target(x: Tensor, matched: Match) -> Tensor:
    batch, _, width = x.shape
    first = torch.arange(batch, device=x.device).unsqueeze(1) * matched.length
    out = x.new_zeros(batch * matched.length, width)
    return out.index_add(0, (first + matched.target).flatten(), x.flatten(0, 1)).view(batch, matched.length, width)
