"""Fusion strategies, and the tokens that each layer removes (Famba-V section 3.2, Figure 2)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from famba_core.config import FusionConfig, FusionSchedule, TokenGrid
from famba_core.errors import ConfigError, Problem, raise_problems, suggest

STRATEGIES: dict[str, Callable[..., Iterable[int]]] = {}


def strategy(function: Callable[..., Iterable[int]]) -> Callable[..., Iterable[int]]:
    """Register a strategy under its function's name.

    The function takes the number of layers and, as keywords, `start_layer` and `stop_layer` if it needs them. It
    returns the layers that fuse, counted from 1. Grids, help texts and error messages are derived from the signature.
    """
    STRATEGIES[function.__name__.rstrip("_")] = function
    return function


@strategy
def none(num_layers: int) -> Iterable[int]:
    return ()


@strategy
def all_(num_layers: int) -> Iterable[int]:
    return range(1, num_layers + 1)


@strategy
def interleaved(num_layers: int) -> Iterable[int]:
    return range(2, num_layers + 1, 2)


@strategy
def lower(num_layers: int, *, stop_layer: int) -> Iterable[int]:
    return range(1, stop_layer + 1)


@strategy
def upper(num_layers: int, *, start_layer: int) -> Iterable[int]:
    return range(start_layer, num_layers + 1)


def layer_keys(name: str) -> tuple[str, ...]:
    """Return which of "start_layer" and "stop_layer" the strategy takes."""
    parameters = inspect.signature(STRATEGIES[name]).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def fusing_layers(labels: FusionConfig, num_layers: int) -> tuple[int, ...]:
    """Return the layers, counted from 1, in which `labels.strategy` fuses, in ascending order.

    Raises ConfigError for an unknown strategy, and for a start or stop layer that is missing, that the strategy does
    not take, or that is not in 1..num_layers.
    """
    name = labels.strategy
    if name not in STRATEGIES:
        raise ConfigError.of("strategy", f"{name!r} is not a strategy; {suggest(name, STRATEGIES)}")
    taken = layer_keys(name)
    problems = []
    for key in ("start_layer", "stop_layer"):
        layer = getattr(labels, key)
        if key in taken and layer is None:
            problems.append(Problem("", key, f"strategy {name!r} needs a layer from 1 to {num_layers}"))
        elif key not in taken and layer is not None:
            problems.append(Problem("", key, f"strategy {name!r} does not take {key} (got {layer})"))
        elif layer is not None and not 1 <= layer <= num_layers:
            problems.append(Problem("", key, f"must be a layer from 1 to {num_layers}, not {layer}"))
    raise_problems(problems)
    return tuple(sorted(STRATEGIES[name](num_layers, **{key: getattr(labels, key) for key in taken})))


def requested_schedule(labels: FusionConfig, num_layers: int) -> tuple[int, ...]:
    """Return the tokens that each layer should remove, not yet limited by the length of the sequence.

    Raises ConfigError as `fusing_layers` does, and for a fusing strategy without r.
    """
    layers = fusing_layers(labels, num_layers)
    if layers and labels.r is None:
        raise ConfigError.of("r", f"strategy {labels.strategy!r} needs r: tokens to remove in each fusing layer")
    return tuple((labels.r or 0) if layer in layers else 0 for layer in range(1, num_layers + 1))


def resolve(fusion: FusionConfig | FusionSchedule, grid: TokenGrid) -> FusionSchedule:
    """Return the schedule that runs: each layer's r, limited to what the remaining sequence allows.

    Raises ConfigError as `requested_schedule` does, and for a schedule of another length than `grid.layers`.
    """
    if isinstance(fusion, FusionConfig):
        requested = requested_schedule(fusion, grid.layers)
    elif len(requested := fusion.schedule) != grid.layers:
        raise ConfigError.of("schedule", f"has {len(requested)} numbers, but the model has {grid.layers} layers")
    return FusionSchedule(schedule=clamp(requested, grid.tokens), order=fusion.order, weighting=fusion.weighting)


def token_schedule(fusion: FusionConfig | FusionSchedule, num_layers: int, num_tokens: int) -> tuple[int, ...]:
    """Return the effective r of each of `num_layers` layers, as `resolve` does.

    Args:
        num_tokens: L at the first layer, class token included.
    """
    return resolve(fusion, TokenGrid(num_layers, num_tokens)).schedule


def most_removable(num_tokens: int) -> int:
    """Return the most tokens that one layer can fuse away: (L - 1) // 2, because the class token never fuses."""
    return max(0, num_tokens - 1) // 2


def clamp(schedule: Sequence[int], num_tokens: int) -> tuple[int, ...]:
    """Return the schedule with each layer's r limited to what the remaining sequence allows."""
    effective: list[int] = []
    for r in schedule:
        effective.append(min(r, most_removable(num_tokens)))
        num_tokens -= effective[-1]
    return tuple(effective)


def tokens_per_layer(schedule: Sequence[int], num_tokens: int) -> tuple[int, ...]:
    """Return the length of the sequence that each layer's mixer sees (fusion comes before the mixer)."""
    return tuple(num_tokens - removed for removed in accumulate(schedule))


def spread(total: int, layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Return a schedule that removes `total` tokens evenly in the given layers: they differ by at most one.

    The i-th of n fusing layers removes floor((i + 1) total / n) - floor(i total / n).
    """
    n = len(layers)
    schedule = [0] * num_layers
    for i, layer in enumerate(sorted(layers)):
        schedule[layer - 1] = (i + 1) * total // n - i * total // n
    return tuple(schedule)
