"""Stored rows as Optuna's trials, and constraints."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from optuna.trial import TrialState
from small_search import (
    SAMPLERS,
    case_of,
    ids,
    plan_of_cases,
    row_of,
    small_plan,
    spy_on_studies,
    suggestions,
    trial_of,
)

from sweep.grid.objectives import Constraint
from sweep.search.optuna_search import OptunaSearch, Suggestion


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_failed_pruned_and_incomplete_rows_keep_their_state(sampler, monkeypatch):
    ends = itertools.cycle(
        [
            {},
            {"status": "failed", "top1_best_pct": None, "train_time_s": None, "peak_memory_mib": math.nan},
            {"status": "pruned", "top1_best_pct": 11.0, "train_time_s": None, "peak_memory_mib": None},
            {"peak_memory_mib": None},
        ]
    )
    search = OptunaSearch(small_plan(sampler))
    studies = spy_on_studies(monkeypatch)
    suggestions(search, 60, lambda trial: row_of(trial) | next(ends))
    states = [trial.state for trial in studies[-1]][:59]
    one = [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.FAIL]
    assert states == (one * 15)[:59]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_with_one_objective_a_pruned_trial_has_its_last_value(sampler, monkeypatch):
    plan = small_plan(sampler, objectives={"top1_best_pct": "max"})
    studies = spy_on_studies(monkeypatch)
    early = {"status": "pruned", "epochs": 300, "last_epoch": 9, "train_time_s": None}
    suggestions(OptunaSearch(plan), 40, lambda trial: row_of(trial) | (early if trial.number % 2 else {}))
    assert studies[-1][0].state == TrialState.PRUNED
    name = studies[-1][0].user_attrs["trial_id"]
    assert studies[-1][0].intermediate_values == {9: row_of(trial_of(name))["top1_best_pct"]}


def test_isolated_times_are_preferred(monkeypatch):
    studies = spy_on_studies(monkeypatch)
    search = OptunaSearch(small_plan())
    suggestions(search, 2, lambda trial: row_of(trial) | {"measured": "isolated", "isolated_train_time_s": 7.0})
    assert studies[-1][0].values[1] == 7.0


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_constraints_steer_the_search_to_feasible_trials(sampler):
    """Accuracy is best at early layers, but only late ones meet the bound."""

    def end(suggestion: Suggestion) -> dict[str, Any]:
        layer = layers[suggestion.trial.trial_id]
        return row_of(suggestion) | {"top1_best_pct": 400.0 - layer, "peak_memory_mib": 400.0 - layer}

    points = itertools.product(range(1, 401), ("concat", "raster"))
    cases = [case_of(f"upper{layer}-{order}", start_layer=layer, order=order) for layer, order in points]
    layers = {case.trial_id: case.start_layer or 0 for case in cases}

    def late_layers(*constraints: Constraint) -> int:
        plan = plan_of_cases(cases, sampler, objectives={"top1_best_pct": "max"}, constraints=constraints)
        found = suggestions(OptunaSearch(plan), 80, end)
        return sum(layers[name] >= 300 for name in ids(found))

    assert late_layers(Constraint(column="peak_memory_mib", relation="<=", bound=100)) > late_layers() + 5


def test_violations_are_signed(monkeypatch):
    studies = spy_on_studies(monkeypatch)
    constraints = (
        Constraint(column="peak_memory_mib", relation="<=", bound=6000),
        Constraint(column="top1_best_pct", relation=">=", bound=70),
    )
    plan = small_plan(constraints=constraints)
    suggestions(OptunaSearch(plan), 2, lambda t: row_of(t) | {"peak_memory_mib": 6500.0, "top1_best_pct": 72.0})
    assert studies[-1][0].constraints == {"peak_memory_mib <= 6000": 500.0, "top1_best_pct >= 70": -2.0}
