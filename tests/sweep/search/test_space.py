"""The parameters of a search are the labels in which its candidates differ."""

from __future__ import annotations

import itertools
from typing import Any

import optuna
import pytest
from small_search import case_of, ids, plan_of_cases, small_plan, spy_on_studies, suggestions

from sweep.plan.model import Plan
from sweep.search.optuna_search import OptunaSearch


def parameters(monkeypatch: pytest.MonkeyPatch, plan: Plan) -> dict[str, Any]:
    studies = spy_on_studies(monkeypatch)
    suggestions(OptunaSearch(plan), 2)
    return studies[-1][0].distributions


def test_parameters_are_the_labels_that_vary(monkeypatch):
    assert set(parameters(monkeypatch, small_plan())) == {"strategy", "start_layer", "stop_layer", "order"}


def test_r_is_a_parameter_unless_a_budget_derives_it(monkeypatch):
    derived = [case_of(f"upper{layer}", start_layer=layer, r=168 // (25 - layer)) for layer in range(2, 20)]
    assert set(parameters(monkeypatch, plan_of_cases(derived))) == {"start_layer"}
    free = [case_of(f"upper{n}-{r}", start_layer=n, r=r) for n, r in itertools.product(range(4, 20, 4), (1, 3, 9))]
    found = parameters(monkeypatch, plan_of_cases(free))
    assert found["start_layer"] == optuna.distributions.IntDistribution(4, 16, step=4)
    assert found["r"] == optuna.distributions.IntDistribution(1, 9, step=2)


def test_a_space_of_one_schedule_has_no_parameter_but_its_trial_runs():
    found = suggestions(OptunaSearch(plan_of_cases([case_of("only", start_layer=3)])), 10)
    assert ids(found) == ["only"]
