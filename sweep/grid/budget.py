"""How many tokens a case removes: its budget, and the same share of them on images of another size.

The paper states its cases for 196 patches and one r for every fusing layer (Famba-V section 3.2).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from famba_core.config import ConfigError, FusionConfig
from famba_core.fusion.schedule import fusing_layers, most_removable, requested_schedule, spread, token_schedule
from famba_core.paper.published import PAPER_PATCHES
from sweep.grid.iso_cost import train_cost_ratio


class OffBudget(ConfigError):
    """A case whose layers come to nothing near enough to the budget."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every fusing case of a grid has in common, so that only the place of fusion varies: the total of removed
    tokens, or the cost of training. One of the two."""

    reduced_tokens: int | None = None  # over all layers, stated for 196 patches
    train_cost_ratio: float | None = None  # a training step's cost over that without fusion, as iso_cost.py predicts it
    rule: Literal["nearest", "exact"] = "nearest"  # one r per case, or r that differs by at most one between layers
    tolerance: float = 0.1  # share of the budget by which a case may be off

    def __post_init__(self) -> None:
        tokens, ratio = self.reduced_tokens, self.train_cost_ratio
        rules = (
            (
                "reduced_tokens",
                tokens is not None or ratio is not None,
                "is required, or train_cost_ratio in its place",
            ),
            (
                "train_cost_ratio",
                tokens is None or ratio is None,
                "stands beside reduced_tokens; a budget has one of them",
            ),
            ("reduced_tokens", tokens is None or tokens >= 1, f"must be at least 1, not {tokens}"),
            ("train_cost_ratio", ratio is None or 0 < ratio < 1, f"must be above 0 and below 1, not {ratio}"),
            ("tolerance", 0 <= self.tolerance < 1, f"must be at least 0 and below 1, not {self.tolerance}"),
        )
        problems = [(field, sentence) for field, holds, sentence in rules if not holds]
        if problems:
            raise ConfigError(problems)

    @property
    def key(self) -> str:
        """The entry that states it."""
        return "reduced_tokens" if self.reduced_tokens is not None else "train_cost_ratio"


def with_schedule(labels: FusionConfig, budget: Budget | None) -> FusionConfig:
    """The case with the schedule that its labels, or the budget, ask for at 196 patches.

    Under a budget labels hold no r: with rule "nearest" it is filled in, with "exact" it stays None, for layers differ.
    Raises ConfigError for labels that make no schedule, OffBudget where no r meets the budget, and what `at_patches`
    raises.
    """
    return at_patches(asked_for(labels, budget), PAPER_PATCHES)


def asked_for(labels: FusionConfig, budget: Budget | None) -> FusionConfig:
    """As `with_schedule`, whether or not 197 tokens are enough for it."""
    layers = fusing_layers(labels)
    if budget is None or not layers:
        return replace(labels, schedule=requested_schedule(labels))
    if budget.reduced_tokens is None:
        total = _total_of_cost(budget, layers, case_label(labels))
    elif budget.rule == "exact":
        total = budget.reduced_tokens
    else:
        total = _nearest_r(budget.reduced_tokens, budget.tolerance, layers, case_label(labels)) * len(layers)
    r = None if budget.rule == "exact" else total // len(layers)
    return replace(labels, r=r, schedule=spread(total, layers))


def _nearest_r(total: int, tolerance: float, layers: Sequence[int], label: str) -> int:
    n = len(layers)
    r = (2 * total + n) // (2 * n)  # total / n, halves up
    off = abs(n * r - total) / total
    if off > tolerance:
        raise OffBudget(
            [
                (
                    "r",
                    f"{label}: with one r for its {n} layers the total nearest to {total} is {n * r} (r {r}), "
                    f"{off:.1%} off, and the tolerance is {tolerance:.1%}; rule exact meets any total",
                )
            ]
        )
    return r


def _total_of_cost(budget: Budget, layers: Sequence[int], label: str) -> int:
    """Tokens to remove in `layers`, so that a training step costs what the budget says."""
    goal = budget.train_cost_ratio
    assert goal is not None
    ratios = _ratios(tuple(layers), 1 if budget.rule == "exact" else len(layers))
    total = min(ratios, key=lambda total: abs(ratios[total] - goal))
    off = abs(ratios[total] - goal) / goal
    if off > budget.tolerance:
        raise OffBudget(
            [
                (
                    "r",
                    f"{label}: the cost nearest to {goal:g} that its {len(layers)} layers allow is "
                    f"{ratios[total]:.3f}, with {total} tokens removed; it is {off:.1%} off, and the tolerance "
                    f"{budget.tolerance:.1%}",
                )
            ]
        )
    return total


@functools.cache
def _ratios(layers: tuple[int, ...], step: int) -> dict[int, float]:
    """Cost by total, for the totals that 197 tokens allow."""
    schedules = (spread(total, layers) for total in range(0, PAPER_PATCHES, step))
    return {sum(schedule): train_cost_ratio(schedule) for schedule in schedules if holds(schedule, PAPER_PATCHES)}


def share_at(budget: Budget, num_patches: int) -> tuple[float, int]:
    """Tokens that are the budget's share on images of `num_patches`, and the whole number that is removed there."""
    assert budget.reduced_tokens is not None
    share = budget.reduced_tokens * num_patches / PAPER_PATCHES
    return share, _scaled_total(budget.reduced_tokens, num_patches)


def at_patches(case: FusionConfig, num_patches: int) -> FusionConfig:
    """The case with its total scaled by num_patches / 196, rounded, and spread over its fusing layers.

    At 196 patches this is the case itself. Raises ConfigError where a layer would be asked for more tokens than it
    can fuse away, rather than remove fewer in silence.
    """
    scaled = scaled_to(case, num_patches)
    if scaled is None:
        raise ConfigError([("r", _too_much(case, num_patches))])
    return scaled


def scaled_to(case: FusionConfig, num_patches: int) -> FusionConfig | None:
    """As `at_patches`, and None where that raises for tokens that lack."""
    schedule = _spread_at(sum(requested_schedule(case)), fusing_layers(case), num_patches)
    return replace(case, schedule=schedule) if holds(schedule, num_patches) else None


def _too_much(case: FusionConfig, num_patches: int) -> str:
    layers = fusing_layers(case)
    total = sum(requested_schedule(case))
    schedule = _spread_at(total, layers, num_patches)
    effective = token_schedule(FusionConfig(schedule=schedule), num_tokens=num_patches + 1)
    first = next(i for i, (asked, given) in enumerate(zip(schedule, effective, strict=True)) if given < asked)
    tokens = num_patches + 1 - sum(schedule[:first])
    step = 1 if case.r is None else len(layers)
    smaller = ((less, _spread_at(less, layers, num_patches)) for less in range(0, min(total, PAPER_PATCHES), step))
    most = max(less for less, spread_less in smaller if holds(spread_less, num_patches))
    largest = f"total is {most}" if case.r is None else f"r is {most // step}, {most} tokens in all"
    return (
        f"{case_label(case)}: layer {first + 1} would remove {schedule[first]} of its {tokens} tokens "
        f"and can remove {most_removable(tokens)}; its largest {largest}"
    )


def _spread_at(total: int, layers: Sequence[int], num_patches: int) -> tuple[int, ...]:
    return spread(_scaled_total(total, num_patches), layers)


def _scaled_total(total: int, num_patches: int) -> int:
    # halves up, in whole numbers: floor(total * num_patches / 196 + 0.5)
    return (2 * total * num_patches + PAPER_PATCHES) // (2 * PAPER_PATCHES)


def holds(schedule: Sequence[int], num_patches: int) -> bool:
    """Whether every layer has the tokens that it is asked to remove."""
    tokens = num_patches + 1
    for r in schedule:
        if r > most_removable(tokens):
            return False
        tokens -= r
    return True


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
