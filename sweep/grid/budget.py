"""How many tokens a case removes: its budget, and the same share of them on images of another size.

The paper states its cases for 196 patches and one r for every fusing layer (Famba-V section 3.2).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from famba_core.config import FusionConfig, FusionSchedule, TokenGrid
from famba_core.errors import ConfigError, check_config, setting
from famba_core.fusion.schedule import clamp, fusing_layers, most_removable, spread
from famba_core.paper.published import PAPER_PATCHES
from sweep.grid.iso_cost import train_cost_ratio

PAPER_GRID = TokenGrid(
    layers=24, tokens=PAPER_PATCHES + 1
)  # Vim on 224 x 224 pixels; labels and budgets are stated for it


class OffBudget(ConfigError):
    """A case whose layers come to nothing near enough to the budget."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every fusing case of a grid has in common, so that only the place of fusion varies: the total of removed
    tokens, or the cost of training. One of the two."""

    reduced_tokens: int | None = setting(None, "over all layers, stated for 196 patches", at_least=1)
    train_cost_ratio: float | None = setting(
        None, "cost of a training step over that without fusion, as predicted by iso_cost.py", above=0, below=1
    )
    rule: Literal["nearest", "exact"] = setting(
        "nearest", "one r per case, or an r that differs by at most one between layers"
    )
    tolerance: float = setting(0.1, "share of the budget by which a case may miss it", at_least=0, below=1)

    def __post_init__(self) -> None:
        tokens, ratio = self.reduced_tokens, self.train_cost_ratio
        check_config(
            self,
            ("reduced_tokens", (tokens, ratio) != (None, None), "is required, or train_cost_ratio in its place"),
            ("train_cost_ratio", None in (tokens, ratio), "cannot stand with reduced_tokens; keep one of the two"),
        )

    @property
    def key(self) -> str:
        """The entry that states it."""
        return "reduced_tokens" if self.reduced_tokens is not None else "train_cost_ratio"


class FusionRequest(NamedTuple):
    """A case as a grid asks for it, stated for 196 patches."""

    labels: FusionConfig
    total: int | None = None  # tokens to remove in all fusing layers, where a budget gives no single r

    def scaled_total(self, layers: Sequence[int], num_patches: int) -> int:
        """Return the tokens to remove in `layers` on images of `num_patches`: the same share, rounded."""
        total = self.total if self.total is not None else (self.labels.r or 0) * len(layers)
        return _scaled_total(total, num_patches)


def apply_budget(labels: FusionConfig, budget: Budget | None) -> FusionRequest:
    """Return the labels with the r, or the total, that the budget derives for them.

    Rule "nearest" fills in r; with "exact" r stays None, because layers differ. Raises ConfigError for labels that make
    no schedule, and OffBudget where no r meets the budget.
    """
    layers = fusing_layers(labels, PAPER_GRID.layers)
    if budget is None or not layers:
        if layers and labels.r is None:
            raise ConfigError.of("r", f"strategy {labels.strategy!r} needs r: tokens to remove in each fusing layer")
        return FusionRequest(labels)
    if budget.reduced_tokens is None:
        total = _total_of_cost(budget, layers, case_label(labels))
    elif budget.rule == "exact":
        total = budget.reduced_tokens
    else:
        total = _nearest_r(budget.reduced_tokens, budget.tolerance, layers, case_label(labels)) * len(layers)
    if budget.rule == "exact":
        return FusionRequest(labels, total)
    return FusionRequest(replace(labels, r=total // len(layers)))


def schedule_on(request: FusionRequest, grid: TokenGrid) -> FusionSchedule:
    """Return what runs on a model's grid: the total, scaled by patches / 196 and spread over the fusing layers.

    On the paper's grid these are the labels' own r. Raises ConfigError where a layer would be asked for more tokens
    than it can fuse away, rather than remove fewer silently.
    """
    fusion = find_schedule_on(request, grid)
    if fusion is None:
        raise ConfigError.of("r", _explain_excess(request, grid))
    return fusion


def find_schedule_on(request: FusionRequest, grid: TokenGrid) -> FusionSchedule | None:
    """Return what `schedule_on` returns, or None where it raises because tokens are missing."""
    layers = fusing_layers(request.labels, grid.layers)
    schedule = spread(request.scaled_total(layers, grid.tokens - 1), layers, grid.layers)
    if clamp(schedule, grid.tokens) != schedule:
        return None
    return FusionSchedule(schedule=schedule, order=request.labels.order, weighting=request.labels.weighting)


def share_at(budget: Budget, num_patches: int) -> tuple[float, int]:
    """Return the budget's share of tokens on images of `num_patches`, and the whole number that is removed there."""
    assert budget.reduced_tokens is not None
    return budget.reduced_tokens * num_patches / PAPER_PATCHES, _scaled_total(budget.reduced_tokens, num_patches)


def case_label(labels: FusionConfig) -> str:
    """Return a case in a few words, such as "upper from layer 6, r 9"."""
    place = [labels.strategy]
    if labels.start_layer is not None:
        place.append(f"from layer {labels.start_layer}")
    if labels.stop_layer is not None:
        place.append(f"to layer {labels.stop_layer}")
    parts = [" ".join(place)]
    if labels.r is not None:
        parts.append(f"r {labels.r}")
    defaults = FusionConfig()
    parts += [value for value in (labels.order, labels.weighting) if value not in (defaults.order, defaults.weighting)]
    return ", ".join(parts)


def _nearest_r(total: int, tolerance: float, layers: Sequence[int], label: str) -> int:
    n = len(layers)
    r = (2 * total + n) // (2 * n)  # total / n, halves up
    off = abs(n * r - total) / total
    if off > tolerance:
        sentence = (
            f"{label}: with one r for its {n} layers the total nearest to {total} is {n * r} (r {r}), "
            f"{off:.1%} off, and the tolerance is {tolerance:.1%}; rule exact meets any total"
        )
        raise OffBudget.of("r", sentence)
    return r


def _total_of_cost(budget: Budget, layers: Sequence[int], label: str) -> int:
    """Return the tokens to remove in `layers` so that a training step costs what the budget says."""
    goal = budget.train_cost_ratio
    assert goal is not None
    ratios = _ratios(tuple(layers), 1 if budget.rule == "exact" else len(layers))
    total = min(ratios, key=lambda total: abs(ratios[total] - goal))
    off = abs(ratios[total] - goal) / goal
    if off > budget.tolerance:
        sentence = (
            f"{label}: the cost nearest to {goal:g} that its {len(layers)} layers allow is {ratios[total]:.3f}, with "
            f"{total} tokens removed; it is {off:.1%} off, and the tolerance is {budget.tolerance:.1%}"
        )
        raise OffBudget.of("r", sentence)
    return total


@functools.cache
def _ratios(layers: tuple[int, ...], step: int) -> dict[int, float]:
    """Return the cost by total, for the totals that 197 tokens allow."""
    schedules = (spread(total, layers, PAPER_GRID.layers) for total in range(0, PAPER_PATCHES, step))
    return {sum(s): train_cost_ratio(s) for s in schedules if clamp(s, PAPER_GRID.tokens) == s}


def _explain_excess(request: FusionRequest, grid: TokenGrid) -> str:
    """Name the first layer that lacks tokens, and the largest r or total that the grid allows."""
    labels, layers = request.labels, fusing_layers(request.labels, grid.layers)

    def scheduled(total: int) -> tuple[int, ...]:
        return spread(_scaled_total(total, grid.tokens - 1), layers, grid.layers)

    total = request.total if request.total is not None else (labels.r or 0) * len(layers)
    schedule = scheduled(total)
    effective = clamp(schedule, grid.tokens)
    first = next(i for i, (asked, given) in enumerate(zip(schedule, effective, strict=True)) if given < asked)
    tokens = grid.tokens - sum(schedule[:first])
    step = len(layers) if request.total is None else 1
    smaller = ((less, scheduled(less)) for less in range(0, min(total, PAPER_PATCHES), step))
    most = max(less for less, tried in smaller if clamp(tried, grid.tokens) == tried)
    largest = f"total is {most}" if request.total is not None else f"r is {most // step}, {most} tokens in all"
    return (
        f"{case_label(labels)}: layer {first + 1} would remove {schedule[first]} of its {tokens} tokens "
        f"and can remove {most_removable(tokens)}; its largest {largest}"
    )


def _scaled_total(total: int, num_patches: int) -> int:
    # halves up, in whole numbers: floor(total * num_patches / 196 + 0.5)
    return (2 * total * num_patches + PAPER_PATCHES) // (2 * PAPER_PATCHES)
