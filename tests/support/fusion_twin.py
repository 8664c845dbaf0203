"""Token fusion of one image, one token at a time, written from Famba-V section 3.2 alone."""

from torch import Tensor

Pairs = dict[int, int]  # a token that fuses -> the token it fuses into


def choose_pairs(metric: Tensor, r: int, class_at: int) -> Pairs:
    """Return the r even tokens of metric [L, D] most similar to an odd token, each with that partner.

    If the class token is the only odd one, of three tokens, the other two fuse with each other.
    """
    length = len(metric)
    if length == 3 and class_at == 1:
        return {2: 0} if r else {}
    others = [i for i in range(length) if i != class_at]
    best = []
    for a in others:
        if a % 2 == 0:
            candidates = [(_cosine(metric[a], metric[b]), b) for b in others if b % 2 == 1]
            best.append((*max(candidates), a))
    return {a: b for _, b, a in sorted(best, reverse=True)[:r]}


def order_after(length: int, pairs: Pairs, order: str) -> list[int]:
    """Return the old positions of the remaining tokens, in their new order."""
    stay = [i for i in range(length) if i not in pairs]
    if order == "raster":
        return stay
    return [i for i in stay if i % 2 == 0] + [i for i in stay if i % 2 == 1]


def fuse(values: list[Tensor], weights: list[float], pairs: Pairs, order: str) -> list[Tensor]:
    """Return the weighted mean of each remaining token and the tokens that fuse into it."""
    fused = []
    for i in order_after(len(values), pairs, order):
        members = [i] + [a for a, b in pairs.items() if b == i]
        total = sum(weights[j] for j in members)
        fused.append(sum((weights[j] * values[j] for j in members), start=values[0] * 0) / total)
    return fused


def _cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b) / (a.norm() * b.norm()))
