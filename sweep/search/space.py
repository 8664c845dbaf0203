"""A plan's candidates as Optuna sees them: parameters with ranges, and the trial at each point."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from sweep.plan.model import Case

LABELS = ("backbone", "seed", "strategy", "start_layer", "stop_layer", "r", "order", "weighting")


class SearchSpace:
    """The parameters in which the candidates differ, among LABELS.

    A label is a parameter only if it varies; r only if it varies with all other labels equal, because under a budget
    it follows from them. Every point has every parameter: samplers that model them jointly (crossover, multivariate
    density) need that. A parameter that a strategy lacks, such as a start layer, gets a random value without meaning.
    """

    def __init__(self, cases: Sequence[Case]):
        free_r = _strategies_with_free_r(cases)
        labelled = [(case, _labels(case, case.strategy in free_r)) for case in cases]
        values: defaultdict[str, set[Any]] = defaultdict(set)
        for _, labels in labelled:
            for name, value in labels.items():
                values[name].add(value)
        self.distributions: dict[str, BaseDistribution] = {
            name: _distribution(values[name]) for name in LABELS if len(values[name]) > 1
        }
        self._strategy = cases[0].strategy  # of all candidates, if it is not a parameter
        self._names: dict[str, list[str]] = {}  # strategy -> its parameters
        self._params: dict[str, dict[str, Any]] = {}  # trial_id -> parameters of its first case
        self._trial_ids: dict[tuple[Any, ...], str] = {}
        for case, labels in labelled:
            params = {name: value for name, value in labels.items() if name in self.distributions}
            self._names[case.strategy] = list(params)
            self._params.setdefault(case.trial_id, params)
            self._trial_ids.setdefault((case.strategy, *params.values()), case.trial_id)

    def params(self, trial_id: str) -> dict[str, Any]:
        """Return the parameters that a candidate has."""
        return self._params[trial_id]

    def point(self, trial_id: str) -> dict[str, Any]:
        """Return all parameters of a candidate; those that its strategy lacks get random but fixed values."""
        filler = {name: _random_value(d, f"{trial_id} {name}") for name, d in self.distributions.items()}
        return filler | self._params[trial_id]

    def trial_at(self, point: Mapping[str, Any]) -> str | None:
        """Return the trial_id of the candidate at a point, or None if there is none."""
        strategy = point.get("strategy", self._strategy)
        return self._trial_ids.get((strategy, *(point[name] for name in self._names[strategy])))


def _strategies_with_free_r(cases: Sequence[Case]) -> set[str]:
    """Return the strategies for which r varies with all other labels equal."""
    others = [name for name in LABELS if name != "r"]
    rs: defaultdict[tuple[Any, ...], set[int | None]] = defaultdict(set)
    for case in cases:
        rs[tuple(getattr(case, name) for name in others)].add(case.r)
    return {key[others.index("strategy")] for key, found in rs.items() if len(found) > 1}


def _labels(case: Case, free_r: bool) -> dict[str, Any]:
    """Return the labels that the case has, in the order of LABELS."""
    labels = {name: getattr(case, name) for name in LABELS if name != "r" or free_r}
    return {name: value for name, value in labels.items() if value is not None}


def _distribution(values: set[Any]) -> BaseDistribution:
    if not all(isinstance(value, int) for value in values):
        return CategoricalDistribution(sorted(values))
    low = min(values)
    return IntDistribution(low, max(values), step=math.gcd(*(value - low for value in values)))


def _random_value(distribution: BaseDistribution, seed: str) -> Any:
    rng = random.Random(seed)
    if isinstance(distribution, CategoricalDistribution):
        return rng.choice(distribution.choices)
    assert isinstance(distribution, IntDistribution)
    return rng.choice(range(distribution.low, distribution.high + 1, distribution.step))
