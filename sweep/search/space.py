"""A plan's candidates as Optuna sees them: parameters with ranges, and which point of theirs is which trial."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution, IntDistribution

from sweep.plan.model import Case

if TYPE_CHECKING:
    from optuna.trial import Trial

LABELS = ("backbone", "seed", "strategy", "start_layer", "stop_layer", "r", "order", "weighting")


class SearchSpace:
    """The parameters in which the candidates differ, among LABELS.

    A label is a parameter only where it varies, and r only where it does so with all other labels equal: under a
    budget it follows from them. Every point has every parameter, because samplers that see them together (crossover,
    a joint density) need them all; what a strategy lacks, such as a start layer, is made up there and means nothing.
    """

    def __init__(self, cases: Sequence[Case]):
        free_r = _strategies_with_free_r(cases)
        labelled = [(case, _labels(case, case.strategy in free_r)) for case in cases]
        values: defaultdict[str, set[Any]] = defaultdict(set)
        for _, labels in labelled:
            for name, value in labels.items():
                values[name].add(value)
        self.distributions = {name: _distribution(values[name]) for name in LABELS if len(values[name]) > 1}
        self._strategy = cases[0].strategy  # of all, where it is no parameter
        self._names: dict[str, list[str]] = {}  # of the parameters that each strategy has
        self._params: dict[str, dict[str, Any]] = {}  # of each trial, by its first case
        self._trial_ids: dict[tuple[Any, ...], str] = {}
        for case, labels in labelled:
            params = {name: value for name, value in labels.items() if name in self.distributions}
            self._names[case.strategy] = list(params)
            self._params.setdefault(case.trial_id, params)
            self._trial_ids.setdefault((case.strategy, *params.values()), case.trial_id)

    def params(self, trial_id: str) -> dict[str, Any]:
        """The parameters that a candidate has."""
        return self._params[trial_id]

    def point(self, trial_id: str) -> dict[str, Any]:
        """All parameters of a candidate; those that its strategy lacks are made up, always the same."""
        made_up = {name: _random_value(d, f"{trial_id} {name}") for name, d in self.distributions.items()}
        return made_up | self._params[trial_id]

    def ask(self, trial: Trial) -> str | None:
        """Let the trial's sampler choose a point; returns the candidate there, None where there is none."""
        asked = {name: _suggest(trial, name, distribution) for name, distribution in self.distributions.items()}
        strategy = asked.get("strategy", self._strategy)
        return self._trial_ids.get((strategy, *(asked[name] for name in self._names[strategy])))


def _strategies_with_free_r(cases: Sequence[Case]) -> set[str]:
    others = [name for name in LABELS if name != "r"]
    rs: defaultdict[tuple[Any, ...], set[int | None]] = defaultdict(set)
    for case in cases:
        rs[tuple(getattr(case, name) for name in others)].add(case.r)
    return {key[others.index("strategy")] for key, found in rs.items() if len(found) > 1}


def _labels(case: Case, free_r: bool) -> dict[str, Any]:
    """Those that the case has, in the order of LABELS."""
    labels = {name: getattr(case, name) for name in LABELS if name != "r" or free_r}
    return {name: value for name, value in labels.items() if value is not None}


def _distribution(values: set[Any]) -> CategoricalDistribution | IntDistribution:
    if not all(isinstance(value, int) for value in values):
        return CategoricalDistribution(sorted(values))
    low = min(values)
    return IntDistribution(low, max(values), step=math.gcd(*(value - low for value in values)))


def _random_value(distribution: CategoricalDistribution | IntDistribution, seed: str) -> Any:
    rng = random.Random(seed)
    if isinstance(distribution, CategoricalDistribution):
        return rng.choice(distribution.choices)
    return rng.choice(range(distribution.low, distribution.high + 1, distribution.step))


def _suggest(trial: Trial, name: str, distribution: CategoricalDistribution | IntDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    return trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step)
