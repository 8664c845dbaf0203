"""Searches over synthetic cases and rows, and the Optuna studies that they build."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import optuna
import pytest
from fake_training import fake_trial

from sweep.grid.search import Sampler, Search
from sweep.plan.model import Case, Plan, Trial
from sweep.search.optuna_search import OptunaSearch, Suggestion

OBJECTIVES = {"top1_best_pct": "max", "train_time_s": "min", "peak_memory_mib": "min"}
SAMPLERS: tuple[Sampler, ...] = ("tpe", "nsga2", "random")


def trial_of(name: str) -> Trial:
    return replace(fake_trial(0), trial_id=name)


def case_of(name: str, **labels: Any) -> Case:
    given = {"strategy": "upper", "start_layer": None, "stop_layer": None, "r": None, "order": "concat"}
    fixed = {"backbone": "vim_nano", "weighting": "mean", "seed": 0, "baseline": False, "trial_id": name}
    return Case(**given | fixed | labels)


def plan_of_cases(cases: Sequence[Case], sampler: Sampler = "tpe", trials: int = 1000, **fields: Any) -> Plan:
    ids = dict.fromkeys(case.trial_id for case in cases)
    search = Search(sampler=sampler, trials=trials, seed=fields.pop("seed", 0))
    values = {"study": "study", "profile": "laptop", "paper_table": None, "objectives": OBJECTIVES, "search": search}
    return Plan(**values | fields, trials=tuple(trial_of(name) for name in ids), cases=tuple(cases))


def small_plan(sampler: Sampler = "tpe", **fields: Any) -> Plan:
    """Return a plan with 24 start layers, 24 stop layers and 2 orders; cases that fuse in all layers share a trial."""
    cases = [case_of("none", strategy="none", baseline=True)]
    for order, layer in itertools.product(("concat", "raster"), range(1, 25)):
        upper = f"all-{order}" if layer == 1 else f"upper{layer}-{order}"
        lower = f"all-{order}" if layer == 24 else f"lower{layer}-{order}"
        cases.append(case_of(upper, start_layer=layer, order=order))
        cases.append(case_of(lower, strategy="lower", stop_layer=layer, order=order))
    return plan_of_cases(cases, sampler, **fields)


def row_of(of: Trial | Suggestion, status: str = "completed", **columns: Any) -> dict[str, Any]:
    """Return columns of a stored row; its numbers depend on the trial alone."""
    trial, number = of if isinstance(of, Suggestion) else (of, None)
    rng = random.Random(trial.trial_id)
    time = rng.uniform(100, 200)
    measured = {
        "measured": "in_training",
        "top1_best_pct": rng.uniform(50, 80),
        "train_time_s": time,
        "isolated_train_time_s": None,
        "peak_memory_mib": 20 * time + rng.uniform(0, 500),
        "epochs": 3,
        "last_epoch": 3,
    }
    return {"trial_id": trial.trial_id, "suggestion": number, "status": status} | measured | columns


def suggestions(search: OptunaSearch, n: int, end: Callable[[Suggestion], dict[str, Any]] = row_of) -> list[Suggestion]:
    """Return up to `n` suggestions; each trial ends before the next is suggested."""
    found: list[Suggestion] = []
    while len(found) < n and (suggestion := search.suggest({})):
        found.append(suggestion)
        search.tell(end(suggestion))
    return found


def ids(found: Sequence[Suggestion]) -> list[str]:
    return [suggestion.trial.trial_id for suggestion in found]


def numbers(running: Sequence[Suggestion]) -> dict[str, int]:
    return {suggestion.trial.trial_id: suggestion.number for suggestion in running}


def spy_on_studies(monkeypatch: pytest.MonkeyPatch) -> list[list[optuna.trial.FrozenTrial]]:
    """Return a list that collects, for each suggestion, the trials in its Optuna study."""
    built = []
    original = OptunaSearch._study

    def spy(self: OptunaSearch, *given: Any) -> optuna.Study:
        study = original(self, *given)
        built.append(study.get_trials())
        return study

    monkeypatch.setattr(OptunaSearch, "_study", spy)
    return built
