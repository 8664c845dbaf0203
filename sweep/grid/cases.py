"""The baselines and cases of a grid: listed one by one, or a space of lists and ranges, crossed."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from famba_core.config import ConfigError, FusionConfig
from famba_core.fusion.schedule import STRATEGIES, layer_keys
from famba_core.paper.published import PAPER_PATCHES
from sweep.grid.budget import (
    PAPER_GRID,
    Budget,
    FusionRequest,
    OffBudget,
    apply_budget,
    case_label,
    find_schedule_on,
    schedule_on,
)
from sweep.grid.validator import Validator, field_types

CASE_KEYS = field_types(FusionConfig)
_AXES = {key: list[type_] for key, type_ in CASE_KEYS.items()}  # type: ignore[valid-type]
_FUSING_KEYS = ("r", "order", "weighting")  # of every strategy that fuses
_BUDGET_KEYS = field_types(Budget)
_RANGE_KEYS = {"from": int, "to": int, "step": int}
MOST_COMBINATIONS = 20_000  # of a space; each is a trial in plan.json


class LabelledCase(NamedTuple):
    """Labels, and where in the file they stand."""

    key: str  # such as "cases[3]"
    labels: FusionConfig


class GridCase(NamedTuple):
    """A case under the grid's budget, and where in the file it stands."""

    key: str
    request: FusionRequest


class GridCases(NamedTuple):
    """All cases of a grid."""

    baselines: list[GridCase]
    cases: list[GridCase]
    left_out: int  # combinations of a space that 197 tokens or the budget do not allow
    budget: Budget | None


def read_cases(grid: Mapping[str, Any], findings: Validator, *, leave_out: bool) -> GridCases:
    """Baselines and cases; what is wrong goes to `findings`.

    Args:
        leave_out: drop those combinations of a space that 197 tokens or the budget do not allow, rather than refuse
            them. A search takes what is there.
    """
    refused = {problem.key for problem in findings.problems}  # entries that are no list or mapping at all
    if "space" in grid and "cases" in grid:
        findings.add("space", "stands beside cases; a grid has one of the two")
    elif "space" not in grid and not grid.get("cases") and not refused & {"space", "cases"}:
        findings.add("cases", "a grid needs at least one case here, or a space")
    baselines = _listed(grid, "baselines", findings)
    cases = _listed(grid, "cases", findings)
    first_keys: dict[FusionConfig, str] = {}
    for key, labels in (*baselines, *cases):
        if labels in first_keys:
            findings.add(key, f"repeats {first_keys[labels]}: {case_label(labels)}")
        first_keys.setdefault(labels, key)
    if "space" in grid:
        # A baseline among the combinations is no second case.
        crossed = _crossed(grid["space"], findings)
        cases = [LabelledCase("space", labels) for labels in crossed if labels not in first_keys]

    budget = _budget(grid["budget"], findings) if "budget" in grid else None
    if "budget" in refused or ("budget" in grid and budget is None):
        # An r that passes: that each case lacks one would bury the cause, and its layers can still be checked.
        baselines = [LabelledCase(key, replace(labels, r=0)) for key, labels in baselines]
        cases = [LabelledCase(key, replace(labels, r=0)) for key, labels in cases]
    leave_out = leave_out and "space" in grid
    before = len(findings.problems)
    resolved = _requests(cases, budget, findings, leave_out=leave_out)
    if leave_out and cases and not resolved and len(findings.problems) == before:
        findings.add("space", f"none of its {len(cases)} combinations is within 197 tokens and the budget")
    return GridCases(
        baselines=_requests(baselines, budget, findings, leave_out=False),
        cases=resolved,
        left_out=len(cases) - len(resolved),
        budget=budget,
    )


def _budget(values: Mapping[str, Any], findings: Validator) -> Budget | None:
    good = findings.mapping(values, "budget", _BUDGET_KEYS)
    if len(good) < len(values) and not {"reduced_tokens", "train_cost_ratio"} & set(good):
        return None
    budget = findings.config(Budget, good, "budget")
    return budget if len(good) == len(values) else None


def _listed(grid: Mapping[str, Any], section: str, findings: Validator) -> list[LabelledCase]:
    cases = []
    for i, values in enumerate(grid.get(section, ())):
        key = f"{section}[{i}]"
        good = findings.mapping(values, key, CASE_KEYS, required=("strategy",))
        fusion = findings.config(FusionConfig, good, key)
        if "strategy" not in good or len(good) < len(values):
            continue
        for name in _FUSING_KEYS:
            if name in good and name not in _keys_taken(good["strategy"]):
                findings.add(f"{key}.{name}", f"strategy {good['strategy']} takes none, and {good[name]} was given")
        if fusion:
            cases.append(LabelledCase(key, fusion))
    return cases


def _crossed(space: Mapping[str, Any], findings: Validator) -> list[FusionConfig]:
    """Every combination of the space's values, the first key varying slowest."""
    if not space:
        findings.add("space", f"is empty; it needs a strategy and takes {', '.join(CASE_KEYS)}")
        return []
    values = {name: _axis(entry, f"space.{name}", findings) for name, entry in space.items()}
    axes = findings.mapping(values, "space", _AXES, required=("strategy",))
    if len(axes) < len(space) or "strategy" not in axes or not all(axes.values()):
        return []
    for name, listed in axes.items():
        if repeated := [value for value, times in Counter(listed).items() if times > 1]:
            findings.add(f"space.{name}", f"lists {repeated[0]} more than once")
        if not any(name in _keys_taken(strategy) for strategy in axes["strategy"]):
            findings.add(f"space.{name}", f"is taken by none of its strategies: {', '.join(axes['strategy'])}")
    # Only the keys that a strategy takes are crossed for it; together they stand as all keys crossed would list them.
    taken = {name: [key for key in axes if key in _keys_taken(name)] for name in axes["strategy"]}
    count = sum(math.prod(len(axes[key]) for key in keys if key != "strategy") for keys in taken.values())
    if count > MOST_COMBINATIONS:
        findings.add("space", f"has {count} combinations, and {MOST_COMBINATIONS} are the most; narrow its ranges")
        return []
    places = sorted(
        places
        for i, name in enumerate(axes["strategy"])
        for places in itertools.product(
            *([i] if key == "strategy" else range(len(axes[key])) if key in taken[name] else [0] for key in axes)
        )
    )
    cases = []
    for chosen in places:
        labels = {key: axes[key][place] for key, place in zip(axes, chosen, strict=True)}
        cases.append(findings.config(FusionConfig, {key: labels[key] for key in taken[labels["strategy"]]}, "space"))
    return [case for case in cases if case]


def _axis(entry: Any, key: str, findings: Validator) -> Any:
    """The values along one key of a space: a list, one value, or a mapping {from, to, step} with both ends included."""
    values = entry if isinstance(entry, list) else [entry]
    if isinstance(entry, dict):
        ends = findings.mapping(entry, key, _RANGE_KEYS, required=("from", "to"))
        if len(ends) < len(entry) or not {"from", "to"} <= set(ends):
            return []
        if ends.get("step", 1) < 1:
            findings.add(f"{key}.step", f"must be at least 1, not {ends['step']}")
            return []
        if ends["to"] - ends["from"] > PAPER_PATCHES:
            findings.add(key, f"from {ends['from']} to {ends['to']} is more than layers or tokens there are")
            return []
        values = list(range(ends["from"], ends["to"] + 1, ends.get("step", 1)))
    if not values:
        findings.add(key, f"is empty: from {entry['from']} to {entry['to']}" if entry else "lists no value")
    return values


def _keys_taken(strategy: str) -> set[str]:
    """The keys that a case of this strategy may have; all of them where the strategy is unknown."""
    if strategy not in STRATEGIES:
        return set(CASE_KEYS)
    return {"strategy", *layer_keys(strategy), *(_FUSING_KEYS if strategy != "none" else ())}


def _requests(
    cases: Sequence[LabelledCase], budget: Budget | None, findings: Validator, *, leave_out: bool
) -> list[GridCase]:
    """Return the cases that the budget and 197 tokens allow."""
    allowed = []
    for key, labels in cases:
        if budget and labels.r is not None:
            findings.add(f"{key}.r", f"the budget derives r, and {labels.r} was given; drop one of the two")
            continue
        try:
            request = apply_budget(labels, budget)
            if leave_out and find_schedule_on(request, PAPER_GRID) is None:
                continue
            schedule_on(request, PAPER_GRID)
        except ConfigError as error:
            if leave_out and isinstance(error, OffBudget):
                continue
            for problem in error.problems:
                place = f"budget.{budget.key}" if budget and problem.key == "r" else f"{key}.{problem.key}"
                findings.add(place, problem.sentence)
            continue
        allowed.append(GridCase(key, request))
    return allowed
