"""Reads the baselines and cases of a grid: listed one by one, or all combinations of a space."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from famba_core.config import ConfigError, FusionConfig
from famba_core.fusion.schedule import STRATEGIES, layer_keys
from sweep.grid.budget import (
    PAPER_GRID,
    Budget,
    FusionRequest,
    Infeasible,
    apply_budget,
    case_label,
    schedule_on,
)
from sweep.grid.validator import Validator, field_types
from sweep.text import plural

CASE_KEYS = field_types(FusionConfig)
_AXES = {key: list[type_] for key, type_ in CASE_KEYS.items()}  # type: ignore[valid-type]
_FUSING_KEYS = ("r", "order", "weighting")  # of every strategy that fuses
_BUDGET_KEYS = field_types(Budget)
_RANGE_KEYS = {"from": int, "to": int, "step": int}
MOST_COMBINATIONS = 20_000  # of a space; each is a trial in plan.json
SKIP_ADVICE = "; `infeasible: skip` leaves out what cannot run"


class GridCase(NamedTuple):
    """A case with what the grid's budget derives for it."""

    key: str  # its place in the file, such as "cases[3]"
    request: FusionRequest


class GridCases(NamedTuple):
    """All cases of a grid."""

    baselines: list[GridCase]
    cases: list[GridCase]
    left_out: int  # cases that the budget, or 197 tokens with reference_patches, rule out
    budget: Budget | None


def read_cases(grid: Mapping[str, Any], validator: Validator, *, leave_out: bool) -> GridCases:
    """Return the baselines and cases; problems go to `validator`.

    Args:
        leave_out: drop the cases that the budget, or 197 tokens with reference_patches, rule out; otherwise they are
            problems.
    """
    refused = {problem.key for problem in validator.problems}  # entries that are neither a list nor a mapping
    if "space" in grid and "cases" in grid:
        validator.add("space", "cannot stand with cases; keep one of the two")
    elif "space" not in grid and not grid.get("cases") and not refused & {"space", "cases"}:
        validator.add("cases", "a grid needs at least one case here, or a space")
    baselines = _listed(grid, "baselines", validator)
    cases = _listed(grid, "cases", validator)
    first_keys: dict[FusionConfig, str] = {}
    for key, labels in (*baselines, *cases):
        if labels in first_keys:
            validator.add(key, f"repeats {first_keys[labels]}: {case_label(labels)}")
        first_keys.setdefault(labels, key)
    if "space" in grid:
        # A baseline among the combinations is not a second case.
        cases = [("space", labels) for labels in _crossed(grid["space"], validator) if labels not in first_keys]

    reference = grid.get("reference_patches")
    budget = _budget(grid["budget"], reference, validator) if "budget" in grid else None
    if "budget" in refused or ("budget" in grid and budget is None):
        # A valid r: a problem in each case would hide the cause, and the layers can still be checked.
        baselines, cases = ([(key, replace(labels, r=0)) for key, labels in listed] for listed in (baselines, cases))
    before = len(validator.problems)
    resolved, infeasible = _requests(cases, budget, reference, validator)
    if not leave_out:
        for alike in infeasible:
            add_infeasible(alike, validator, advice=SKIP_ADVICE)
    elif cases and not resolved and len(validator.problems) == before:
        tokens = "197 tokens and " if reference else ""
        validator.add(section_of(grid), f"none of its {plural(len(cases), 'case')} is within {tokens}the budget")
    kept, refused_baselines = _requests(baselines, budget, reference, validator)
    for alike in refused_baselines:
        add_infeasible(alike, validator)
    return GridCases(
        baselines=kept,
        cases=resolved,
        left_out=len(cases) - len(resolved),
        budget=budget,
    )


def section_of(grid: Mapping[str, Any]) -> str:
    """Return the key under which a grid names its cases."""
    return "space" if "space" in grid else "cases"


def add_infeasible(
    found: Sequence[tuple[str, Infeasible]], validator: Validator, *, where: str = "", advice: str = ""
) -> None:
    """Add one problem for all cases that cannot run for one reason, given with their keys: the first, and how many.

    Args:
        where: begins the sentence; the place in which they cannot run.
        advice: ends the sentence; what a grid may do about it.
    """
    for key, error in found[:1]:
        more = f"; {plural(len(found) - 1, 'other case')} cannot run for the same reason" if len(found) > 1 else ""
        validator.add(key, f"{where}{error.problems[0].sentence}{more}{advice}")


def _budget(values: Mapping[str, Any], reference_patches: int | None, validator: Validator) -> Budget | None:
    good = validator.mapping(values, "budget", _BUDGET_KEYS)
    if len(good) < len(values) and not {"reduced_tokens", "train_cost_ratio"} & set(good):
        return None
    budget = validator.config(Budget, good, "budget")
    if budget and budget.train_cost_ratio and not reference_patches:
        sentence = "is the cost of Vim-Ti on 196 patches: state the grid for these with reference_patches: 196"
        validator.add("budget.train_cost_ratio", sentence)
        return None
    return budget if len(good) == len(values) else None


def _listed(grid: Mapping[str, Any], section: str, validator: Validator) -> list[tuple[str, FusionConfig]]:
    """Return the valid entries of a list of cases, each with its key in the file."""
    cases = []
    for i, values in enumerate(grid.get(section, ())):
        key = f"{section}[{i}]"
        good = validator.mapping(values, key, CASE_KEYS, required=("strategy",))
        fusion = validator.config(FusionConfig, good, key)
        if "strategy" not in good or len(good) < len(values):
            continue
        for name in _FUSING_KEYS:
            if name in good and name not in _keys_taken(good["strategy"]):
                validator.add(f"{key}.{name}", f"strategy {good['strategy']!r} does not take {name} (got {good[name]})")
        if fusion:
            cases.append((key, fusion))
    return cases


def _crossed(space: Mapping[str, Any], validator: Validator) -> list[FusionConfig]:
    """Return every combination of the space's values, the first key varying slowest."""
    if not space:
        validator.add("space", f"is empty; it needs a strategy and takes {', '.join(CASE_KEYS)}")
        return []
    values = {name: _axis(entry, f"space.{name}", validator) for name, entry in space.items()}
    axes = validator.mapping(values, "space", _AXES, required=("strategy",))
    if len(axes) < len(space) or "strategy" not in axes or not all(axes.values()):
        return []
    for name, listed in axes.items():
        if repeated := [value for value, times in Counter(listed).items() if times > 1]:
            validator.add(f"space.{name}", f"lists {repeated[0]} more than once")
        if not any(name in _keys_taken(strategy) for strategy in axes["strategy"]):
            validator.add(f"space.{name}", f"is taken by none of its strategies: {', '.join(axes['strategy'])}")
    # For each strategy only the keys that it takes are crossed. The order is that of all keys crossed.
    taken = {name: [key for key in axes if key in _keys_taken(name)] for name in axes["strategy"]}
    count = sum(math.prod(len(axes[key]) for key in keys if key != "strategy") for keys in taken.values())
    if count > MOST_COMBINATIONS:
        validator.add("space", f"has {count} combinations, and {MOST_COMBINATIONS} are the most; narrow its ranges")
        return []
    places: list[tuple[int, ...]] = []
    for i, name in enumerate(axes["strategy"]):
        indices = {key: range(len(axes[key])) for key in taken[name]} | {"strategy": [i]}
        places += itertools.product(*(indices.get(key, [0]) for key in axes))
    cases = []
    for chosen in sorted(places):
        labels = {key: axes[key][place] for key, place in zip(axes, chosen, strict=True)}
        cases.append(validator.config(FusionConfig, {key: labels[key] for key in taken[labels["strategy"]]}, "space"))
    return [case for case in cases if case]


def _axis(entry: Any, key: str, validator: Validator) -> Any:
    """Return the values of one key of a space: a list, one value, or {from, to, step} with both ends included."""
    values = entry if isinstance(entry, list) else [entry]
    if isinstance(entry, dict):
        ends = validator.mapping(entry, key, _RANGE_KEYS, required=("from", "to"))
        if len(ends) < len(entry) or not {"from", "to"} <= set(ends):
            return []
        if ends.get("step", 1) < 1:
            validator.add(f"{key}.step", f"must be at least 1, not {ends['step']}")
            return []
        if ends["to"] - ends["from"] >= MOST_COMBINATIONS:
            validator.add(key, f"from {ends['from']} to {ends['to']} is more than {MOST_COMBINATIONS} values")
            return []
        values = list(range(ends["from"], ends["to"] + 1, ends.get("step", 1)))
    if not values:
        validator.add(key, f"is empty: from {entry['from']} to {entry['to']}" if entry else "lists no value")
    return values


def _keys_taken(strategy: str) -> set[str]:
    """Return the keys that a case of this strategy may have; all keys if the strategy is unknown."""
    if strategy not in STRATEGIES:
        return set(CASE_KEYS)
    return {"strategy", *layer_keys(strategy), *(_FUSING_KEYS if strategy != "none" else ())}


def _requests(
    cases: Sequence[tuple[str, FusionConfig]],
    budget: Budget | None,
    reference_patches: int | None,
    validator: Validator,
) -> tuple[list[GridCase], list[list[tuple[str, Infeasible]]]]:
    """Return the cases that can run as the grid states them, and those that cannot, for each reason, with their keys.

    Without reference_patches, the tokens of a profile's images alone say what can run.
    """
    allowed = []
    infeasible: defaultdict[type[Infeasible], list[tuple[str, Infeasible]]] = defaultdict(list)
    for key, labels in cases:
        if budget and labels.r is not None:
            validator.add(
                f"{key}.r", f"the budget derives r, so a case cannot give it (got {labels.r}); drop one of the two"
            )
            continue
        try:
            request = apply_budget(labels, budget, reference_patches)
            if reference_patches:
                schedule_on(request, PAPER_GRID)
        except Infeasible as error:
            infeasible[type(error)].append((f"budget.{budget.key}" if budget else f"{key}.r", error))
            continue
        except ConfigError as error:
            validator.problems += error.at(validator.file, key)
            continue
        allowed.append(GridCase(key, request))
    return allowed, list(infeasible.values())
