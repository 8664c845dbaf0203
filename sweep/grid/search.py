"""How a grid's trials are chosen and which of them end early: its search, early stop and constraints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from famba_core.errors import Checked, setting
from sweep.grid.objectives import Constraint, read_constraints
from sweep.grid.validator import Validator, field_types

Sampler = Literal["tpe", "nsga2", "random"]


@dataclass(frozen=True, kw_only=True)
class Search(Checked):
    """An Optuna search over the schedules that a grid's space and budget allow; each is tried at most once."""

    sampler: Sampler = setting("tpe", "Optuna's sampler")
    trials: int = setting(40, "schedules to try, without the baselines", at_least=1)
    seed: int = setting(0, "seed of the sampler; a search repeats exactly if trials run one at a time", at_least=0)

    def tries(self, candidates: int) -> int:
        """Return how many of the candidates the search tries: all, if there are fewer than its trials."""
        return min(self.trials, candidates)


@dataclass(frozen=True, kw_only=True)
class EarlyStop(Checked):
    """ASHA, asynchronous successive halving: at each rung the best 1 / reduction_factor so far go on.

    Rungs are at min_epochs, min_epochs * reduction_factor, ... epochs. Baselines always train to their end.
    """

    min_epochs: int = setting(1, "the first rung", at_least=1)
    reduction_factor: int = setting(3, "one in so many trials continues at each rung", at_least=2)


Kind = Literal["grid", "optuna", "asha"]

_SEARCH_KEYS, _STOP_KEYS = field_types(Search), field_types(EarlyStop)
_KEYS_OF_KIND: dict[str, dict[str, Any]] = {
    "grid": {"early_stop": Any},
    "optuna": {**_SEARCH_KEYS, "early_stop": Any},
    "asha": _STOP_KEYS,  # a grid that stops early
}
_EVERY_KEY = {"kind": Kind, **{key: type_ for keys in _KEYS_OF_KIND.values() for key, type_ in keys.items()}}


class SearchSection(NamedTuple):
    """How the trials of a grid are chosen; without a search all of them run."""

    search: Search | None
    early_stop: EarlyStop | None
    stop_key: str  # where in the file the early stop stands
    constraints: tuple[Constraint, ...]


def read_search(grid: Mapping[str, Any], validator: Validator) -> SearchSection:
    """Return what the entries search, early_stop and constraints say; problems go to `validator`."""
    search, stop = _search(grid["search"], validator) if "search" in grid else (None, None)
    stop_key = "search.early_stop" if "early_stop" in grid.get("search", ()) else "search" if stop else "early_stop"
    if "early_stop" in grid:
        if stop:
            validator.add("early_stop", "cannot stand with search.early_stop; keep one of the two")
        stop = _early_stop(grid["early_stop"], "early_stop", validator)
    constraints = read_constraints(grid["constraints"], validator) if "constraints" in grid else ()
    if "constraints" in grid and not is_optuna(grid):
        validator.add("constraints", "steer an optuna search, and this grid has none; say search: {kind: optuna}")
    return SearchSection(search, stop, stop_key, constraints)


def is_optuna(grid: Mapping[str, Any]) -> bool:
    """True if the grid requests an Optuna search, even if other entries are invalid."""
    search = grid.get("search")
    return isinstance(search, dict) and search.get("kind") == "optuna"


def _search(values: Mapping[str, Any], validator: Validator) -> tuple[Search | None, EarlyStop | None]:
    good = validator.mapping(values, "search", _EVERY_KEY, required=("kind",))
    if "kind" not in good:
        return None, None
    kind = good["kind"]
    keys = _KEYS_OF_KIND[kind]
    for name in good:
        if name != "kind" and name not in keys:
            kinds = " or ".join(other for other, taken in _KEYS_OF_KIND.items() if name in taken)
            validator.add(f"search.{name}", f"is for kind {kinds}, and the kind is {kind}")
    stop = _early_stop(good["early_stop"], "search.early_stop", validator) if "early_stop" in good else None
    if kind == "asha":
        stop = validator.config(EarlyStop, {key: good[key] for key in keys if key in good}, "search")
    if kind != "optuna":
        return None, stop
    return validator.config(Search, {key: good[key] for key in _SEARCH_KEYS if key in good}, "search"), stop


def _early_stop(entry: Any, key: str, validator: Validator) -> EarlyStop | None:
    """Read `asha`, or {kind: asha, min_epochs, reduction_factor}."""
    values = {"kind": entry} if isinstance(entry, str) else entry
    good = validator.mapping(values, key, {"kind": Literal["asha"], **_STOP_KEYS}, required=("kind",))
    stop = validator.config(EarlyStop, {name: good[name] for name in _STOP_KEYS if name in good}, key)
    return stop if "kind" in good else None
