"""Derives how many tokens each case removes: from a grid's budget and, if the grid asks for it, scaled to its images.

The paper states its cases for 196 patches and one r for every fusing layer (Famba-V section 3.2). A grid with
`reference_patches: 196` states them so, too; in any other, r and budgets are tokens of the model's own images.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from famba_core.config import FusionConfig, FusionSchedule, ModelConfig, TokenGrid
from famba_core.cost.data_sheets import known_limits
from famba_core.cost.roofline import Limits, least_times
from famba_core.cost.work import StepSettings, layer_work, step_cost
from famba_core.errors import ConfigError, check_config, setting
from famba_core.fusion.schedule import clamp, fusing_layers, most_removable, spread, tokens_per_layer
from famba_core.paper.published import PAPER_PATCHES

PAPER_GRID = TokenGrid(
    layers=24, tokens=PAPER_PATCHES + 1
)  # Vim on 224 x 224 pixels; `reference_patches` states labels and budgets for it
_COST_MODEL, _COST_BATCH = ModelConfig(backbone="vim_tiny"), 128  # images; see `train_cost_ratio`


class Infeasible(ConfigError):
    """A case that cannot run although all of its labels are valid: `infeasible: skip` leaves it out."""


class OffBudget(Infeasible):
    """A case for which no r, or no total, is within the budget's tolerance."""


class TooFewTokens(Infeasible):
    """A case one of whose layers would remove more tokens than it can."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A value that all fusing cases of a grid share, so that they differ only in where they fuse.

    It is either the total number of removed tokens or the cost of training.
    """

    reduced_tokens: int | None = setting(None, "over all layers", at_least=1)
    train_cost_ratio: float | None = setting(
        None, "predicted cost of a training step, divided by its cost without fusion", above=0, below=1
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
        """Return the name of the entry that is set."""
        return "reduced_tokens" if self.reduced_tokens is not None else "train_cost_ratio"


class FusionRequest(NamedTuple):
    """A case of a grid."""

    labels: FusionConfig
    total: int | None = None  # tokens to remove in all fusing layers, if a budget gives no single r
    reference_patches: int | None = None  # patches for which r or the total is stated; None: those of the model

    def total_in(self, layers: Sequence[int]) -> int:
        """Return the tokens to remove in `layers`."""
        return self.total if self.total is not None else (self.labels.r or 0) * len(layers)


def apply_budget(labels: FusionConfig, budget: Budget | None, reference_patches: int | None = None) -> FusionRequest:
    """Return the labels with the r, or the total, that the budget derives for them.

    Rule "nearest" fills in r; with "exact" r stays None, because the layers differ. Raises ConfigError for labels that
    give no schedule, and OffBudget if no r meets the budget.
    """
    layers = fusing_layers(labels, PAPER_GRID.layers)
    if budget is None or not layers:
        if layers and labels.r is None:
            raise ConfigError.of("r", f"strategy {labels.strategy!r} needs r: tokens to remove in each fusing layer")
        return FusionRequest(labels, None, reference_patches)
    if budget.reduced_tokens is None:
        total = _total_of_cost(budget, layers, case_label(labels))
    elif budget.rule == "exact":
        total = budget.reduced_tokens
    else:
        total = _nearest_r(budget.reduced_tokens, budget.tolerance, layers, case_label(labels)) * len(layers)
    if budget.rule == "exact":
        return FusionRequest(labels, total, reference_patches)
    return FusionRequest(replace(labels, r=total // len(layers)), None, reference_patches)


def schedule_on(request: FusionRequest, grid: TokenGrid) -> FusionSchedule:
    """Return what runs on a model's grid: each fusing layer removes the labels' own r.

    A request with `reference_patches` has its total scaled by patches / reference_patches and spread over the fusing
    layers. Raises TooFewTokens if a layer would have to remove more tokens than it can.
    """
    fusion = find_schedule_on(request, grid)
    if fusion is None:
        raise TooFewTokens.of("r", _explain_excess(request, grid))
    return fusion


def find_schedule_on(request: FusionRequest, grid: TokenGrid) -> FusionSchedule | None:
    """Return the same as `schedule_on`, but None if a layer cannot remove that many tokens."""
    layers = fusing_layers(request.labels, grid.layers)
    schedule = _spread_scaled(request, layers, grid)
    if clamp(schedule, grid.tokens) != schedule:
        return None
    return FusionSchedule(schedule=schedule, order=request.labels.order, weighting=request.labels.weighting)


def share_at(budget: Budget, num_patches: int) -> tuple[float, int]:
    """Return the tokens to remove on images of `num_patches`, of a total for 196: exactly its share, and rounded."""
    total = budget.reduced_tokens
    assert total is not None
    return total * num_patches / PAPER_PATCHES, _scale(total, num_patches, PAPER_PATCHES)


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
    """Return the tokens to remove in `layers` so that the cost of a training step is nearest to the budget."""
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
    """Return the cost ratio by total, for the totals that 197 tokens allow."""
    schedules = (spread(total, layers, PAPER_GRID.layers) for total in range(0, PAPER_PATCHES, step))
    return {sum(s): train_cost_ratio(s) for s in schedules if clamp(s, PAPER_GRID.tokens) == s}


def _explain_excess(request: FusionRequest, grid: TokenGrid) -> str:
    """Return a sentence with the first layer that lacks tokens, and the largest r or total that the grid allows."""
    labels, layers = request.labels, fusing_layers(request.labels, grid.layers)
    total = request.total_in(layers)
    schedule = _spread_scaled(request, layers, grid)
    possible = clamp(schedule, grid.tokens)
    first = next(i for i in range(grid.layers) if possible[i] < schedule[i])
    tokens = grid.tokens - sum(schedule[:first])
    step = len(layers) if request.total is None else 1
    smaller = range(0, min(total, request.reference_patches or grid.tokens), step)
    most = max(less for less in smaller if find_schedule_on(request._replace(total=less), grid))
    largest = f"total is {most}" if request.total is not None else f"r is {most // step}, {most} tokens in all"
    return (
        f"{case_label(labels)}: layer {first + 1} would remove {schedule[first]} of its {tokens} tokens "
        f"and can remove {most_removable(tokens)}; its largest {largest}"
    )


def _spread_scaled(request: FusionRequest, layers: Sequence[int], grid: TokenGrid) -> tuple[int, ...]:
    """Return the tokens that each layer of a grid would remove, more than there are included."""
    total, reference = request.total_in(layers), request.reference_patches
    return spread(_scale(total, grid.tokens - 1, reference) if reference else total, layers, grid.layers)


def _scale(total: int, num_patches: int, reference: int) -> int:
    # floor(total * num_patches / reference + 0.5), computed in whole numbers
    return (2 * total * num_patches + reference) // (2 * reference)


def train_cost_ratio(schedule: Sequence[int]) -> float:
    """Return the predicted cost of a training step with 24 layers and 197 tokens, divided by that without fusion.

    The reference is fixed, so that a grid gives the same trials on every machine: vim_tiny on 224 x 224 pixels, batches
    of 128, float32, at the limits of an A100's data sheet, where resources are used one after the other. The time to
    launch kernels is left out, because it depends on the machine.
    """
    tokens = _COST_MODEL.num_tokens
    lengths = tokens_per_layer(schedule, tokens)
    saved = sum(_layer_s(tokens, 0) - _layer_s(length, r) for length, r in zip(lengths, schedule, strict=True))
    return 1 - saved / _unfused_s()


@functools.cache  # a search computes the cost of thousands of schedules, made of a few hundred different layers
def _layer_s(length: int, r: int) -> float:
    return least_times(layer_work(_COST_MODEL, length, r) * _COST_BATCH, _a100()).serial


@functools.cache
def _unfused_s() -> float:
    unfused = step_cost(_COST_MODEL, [0] * _COST_MODEL.sizes.depth, StepSettings(batch=_COST_BATCH))
    return least_times(unfused.work, _a100()).serial


@functools.cache
def _a100() -> Limits:
    limits = known_limits("A100", "float32")
    assert limits is not None
    return limits
