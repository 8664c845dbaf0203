"""Strategy -> tokens removed in each layer (Famba-V section 3.2, Figure 2)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence

from famba_core.config import ConfigError, FusionConfig

STRATEGIES: dict[str, Callable[..., Iterable[int]]] = {}


def strategy(function: Callable[..., Iterable[int]]) -> Callable[..., Iterable[int]]:
    """Register a strategy under its function's name.

    It takes the number of layers and, by keyword, those of `start_layer` and `stop_layer` that it needs, and
    returns the layers that fuse, plural from 1. Grids, help texts and error messages follow from the signature.
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
    """Those of "start_layer" and "stop_layer" that the strategy takes."""
    parameters = inspect.signature(STRATEGIES[name]).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def fusing_layers(fusion: FusionConfig, num_layers: int = 24) -> tuple[int, ...]:
    """The layers, plural from 1, in which `fusion.strategy` fuses, in ascending order.

    Raises ConfigError for an unknown strategy and for a start or stop layer that is missing, not the
    strategy's, or outside 1..num_layers.
    """
    if fusion.strategy not in STRATEGIES:
        raise ConfigError([("strategy", f"{fusion.strategy!r} is not a strategy; choose from {', '.join(STRATEGIES)}")])
    taken = layer_keys(fusion.strategy)
    problems = []
    for key in ("start_layer", "stop_layer"):
        layer = getattr(fusion, key)
        if key in taken and layer is None:
            problems.append((key, f"strategy {fusion.strategy} needs it: a layer from 1 to {num_layers}"))
        elif key not in taken and layer is not None:
            problems.append((key, f"strategy {fusion.strategy} takes none, and {layer} was given"))
        elif layer is not None and not 1 <= layer <= num_layers:
            problems.append((key, f"must be a layer from 1 to {num_layers}, not {layer}"))
    if problems:
        raise ConfigError(problems)
    layers = STRATEGIES[fusion.strategy](num_layers, **{key: getattr(fusion, key) for key in taken})
    return tuple(sorted(layers))


def requested_schedule(fusion: FusionConfig, num_layers: int = 24) -> tuple[int, ...]:
    """Tokens that each layer is asked to remove, before the sequence's length limits it.

    Raises ConfigError for a schedule of another length, and for a fusing strategy without r.
    """
    if fusion.schedule is not None:
        if len(fusion.schedule) != num_layers:
            raise ConfigError([("schedule", f"has {len(fusion.schedule)} numbers, and the model {num_layers} layers")])
        return fusion.schedule
    layers = fusing_layers(fusion, num_layers)
    if layers and fusion.r is None:
        raise ConfigError([("r", f"strategy {fusion.strategy} needs it: tokens to remove in each fusing layer")])
    return tuple((fusion.r or 0) if layer in layers else 0 for layer in range(1, num_layers + 1))


def most_removable(num_tokens: int) -> int:
    """The most tokens that one layer can fuse away from `num_tokens`: (L - 1) // 2, the class token never fuses."""
    return max(0, num_tokens - 1) // 2


def token_schedule(fusion: FusionConfig, num_layers: int = 24, num_tokens: int = 197) -> tuple[int, ...]:
    """Effective r of every layer: what is asked for, clamped to what the sequence still allows.

    Args:
        fusion: strategy and r, or an explicit schedule.
        num_layers: layers of the model.
        num_tokens: L at the first layer, class token included.

    Returns a tuple of `num_layers` numbers. Raises ConfigError as `requested_schedule` does.
    """
    effective = []
    for r in requested_schedule(fusion, num_layers):
        effective.append(min(r, most_removable(num_tokens)))
        num_tokens -= effective[-1]
    return tuple(effective)


def tokens_per_layer(schedule: Sequence[int], num_tokens: int) -> tuple[int, ...]:
    """Length of the sequence that each layer's mixer sees (fusion comes before the mixer)."""
    lengths = []
    for r in schedule:
        num_tokens -= r
        lengths.append(num_tokens)
    return tuple(lengths)


def spread(total: int, layers: Sequence[int], num_layers: int = 24) -> tuple[int, ...]:
    """A schedule that removes `total` tokens in the given layers, evenly: they differ by at most one.

    The i-th of n fusing layers removes floor((i + 1) total / n) - floor(i total / n).
    """
    n = len(layers)
    schedule = [0] * num_layers
    for i, layer in enumerate(sorted(layers)):
        schedule[layer - 1] = (i + 1) * total // n - i * total // n
    return tuple(schedule)
