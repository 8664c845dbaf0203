"""How many tokens a case removes: its budget, and the same share of them on images of another size.

The paper states its cases for 196 patches and one r for every fusing layer (Famba-V section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from famba_core.config import ConfigError, FusionConfig
from famba_core.fusion.schedule import fusing_layers, most_removable, requested_schedule, spread, token_schedule

PAPER_PATCHES = 196  # 224 x 224 pixels in patches of 16; labels and budgets are stated for these


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A total of removed tokens that every fusing case of a grid meets, so that only the place of fusion varies."""

    reduced_tokens: int  # over all layers, stated for 196 patches
    rule: Literal["nearest", "exact"] = "nearest"  # one r per case, or r that differs by at most one between layers
    tolerance: float = 0.1  # of "nearest": share of reduced_tokens by which the total may be off

    def __post_init__(self) -> None:
        rules = (
            ("reduced_tokens", self.reduced_tokens >= 1, f"must be at least 1, not {self.reduced_tokens}"),
            ("tolerance", 0 <= self.tolerance < 1, f"must be at least 0 and below 1, not {self.tolerance}"),
        )
        problems = [(field, sentence) for field, holds, sentence in rules if not holds]
        if problems:
            raise ConfigError(problems)


def with_schedule(labels: FusionConfig, budget: Budget | None) -> FusionConfig:
    """The case with the schedule that its labels, or the budget, ask for at 196 patches.

    Under a budget labels hold no r: with rule "nearest" it is filled in, with "exact" it stays None, for layers differ.
    Raises ConfigError for labels that make no schedule, and where the budget or 197 tokens do not allow it.
    """
    layers = fusing_layers(labels)
    if budget is None or not layers:
        labelled = replace(labels, schedule=requested_schedule(labels))
    elif budget.rule == "exact":
        labelled = replace(labels, schedule=spread(budget.reduced_tokens, layers))
    else:
        r = _nearest_r(budget, layers, case_label(labels))
        labelled = replace(labels, r=r, schedule=spread(r * len(layers), layers))
    return at_patches(labelled, PAPER_PATCHES)


def _nearest_r(budget: Budget, layers: Sequence[int], label: str) -> int:
    n, total = len(layers), budget.reduced_tokens
    r = (2 * total + n) // (2 * n)  # total / n, halves up
    off = abs(n * r - total) / total
    if off > budget.tolerance:
        raise ConfigError(
            [
                (
                    "r",
                    f"{label}: with one r for its {n} layers the total nearest to {total} is {n * r} (r {r}), "
                    f"{off:.1%} off, and the tolerance is {budget.tolerance:.1%}; rule exact meets any total",
                )
            ]
        )
    return r


def at_patches(case: FusionConfig, num_patches: int) -> FusionConfig:
    """The case with its total scaled by num_patches / 196, rounded, and spread over its fusing layers.

    At 196 patches this is the case itself. Raises ConfigError where a layer would be asked for more tokens than it
    can fuse away, rather than remove fewer in silence.
    """
    layers = fusing_layers(case)
    total = sum(requested_schedule(case))
    schedule = _spread_at(total, layers, num_patches)
    effective = _clamped(schedule, num_patches)
    if effective == schedule:
        return replace(case, schedule=schedule)
    first = next(i for i, (asked, given) in enumerate(zip(schedule, effective, strict=True)) if given < asked)
    tokens = num_patches + 1 - sum(schedule[:first])
    step = 1 if case.r is None else len(layers)
    smaller = ((less, _spread_at(less, layers, num_patches)) for less in range(0, min(total, PAPER_PATCHES), step))
    most = max(less for less, spread_less in smaller if _clamped(spread_less, num_patches) == spread_less)
    largest = f"total is {most}" if case.r is None else f"r is {most // step}, {most} tokens in all"
    raise ConfigError(
        [
            (
                "r",
                f"{case_label(case)}: layer {first + 1} would remove {schedule[first]} of its {tokens} tokens "
                f"and can remove {most_removable(tokens)}; its largest {largest}",
            )
        ]
    )


def _spread_at(total: int, layers: Sequence[int], num_patches: int) -> tuple[int, ...]:
    # halves up, in whole numbers: floor(total * num_patches / 196 + 0.5)
    return spread((2 * total * num_patches + PAPER_PATCHES) // (2 * PAPER_PATCHES), layers)


def _clamped(schedule: tuple[int, ...], num_patches: int) -> tuple[int, ...]:
    return token_schedule(FusionConfig(schedule=schedule), num_tokens=num_patches + 1)


def case_label(case: FusionConfig) -> str:
    """A case in a few words, such as "upper from layer 6, r 9"."""
    words = [case.strategy]
    if case.start_layer is not None:
        words.append(f"from layer {case.start_layer}")
    if case.stop_layer is not None:
        words.append(f"to layer {case.stop_layer}")
    label = " ".join(words)
    if case.r is not None:
        label += f", r {case.r}"
    if case.order != FusionConfig.order:
        label += f", {case.order}"
    if case.weighting != FusionConfig.weighting:
        label += f", {case.weighting}"
    return label
