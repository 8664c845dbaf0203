"""Chooses which of a plan's trials an Optuna search runs next, from the stored rows alone."""

from __future__ import annotations

import random
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pandas as pd
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.samplers.nsgaii import PolynomialMutation
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweep.grid.search import Search
from sweep.plan.model import Plan, Trial
from sweep.search.dashboard_log import DashboardLog, Direction
from sweep.search.space import SearchSpace

RETRIES = 20  # draws of a sampler before a trial is drawn at random
STARTUP_TRIALS, STARTUP_SHARE = 20, 0.25  # random trials at the start of TPE; at most a quarter of a short search
POPULATION = 10  # of NSGA-II: number of parents, and of random trials at the start
EXPLORE_EVERY = 3  # with TPE every third trial is random: alone it stays in the first good region that it finds

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Suggestion(NamedTuple):
    """A trial that a search chose."""

    trial: Trial
    number: int  # 1-based index among the search's suggestions


class OptunaSearch:
    """Chooses among the candidates of a plan, which are its trials without the baselines.

    A suggestion is a function of the rows of ended trials, the running trials and the seed. An Optuna study is built
    for each suggestion and dropped. So there is no state to restore, and an interrupted search continues as if it had
    not been interrupted.

    Args:
        log: file for a copy that optuna-dashboard can open; see `DashboardLog`.
    """

    def __init__(self, plan: Plan, log: Path | None = None):
        assert plan.search, "the plan has no search"
        self._plan, self._search = plan, plan.search
        self._candidates = {trial.trial_id: trial for trial in plan.candidates}
        self._space = SearchSpace([case for case in plan.cases if case.trial_id in self._candidates])
        self._ended: dict[str, tuple[int, FrozenTrial]] = {}  # trial_id -> number of its suggestion, trial
        self._directions: list[Direction] = [
            "maximize" if way == "max" else "minimize" for way in plan.objectives.values()
        ]
        self._log = log and DashboardLog(log, plan.study, self._directions, list(plan.objectives))

    def tell(self, row: Mapping[str, Any]) -> None:
        """Add the row of an ended trial, a ResultRow as a mapping. Rows of other trials than candidates are ignored."""
        trial_id, number = row["trial_id"], row["suggestion"]
        if trial_id not in self._candidates:
            return
        self._ended[trial_id] = (0 if pd.isna(number) else int(number), self._convert(row, self._space.point(trial_id)))
        if self._log:
            self._log.add(self._convert(row, self._space.params(trial_id)))

    def suggest(self, running: Mapping[str, int]) -> Suggestion | None:
        """Return the next trial to run; None if the search has made all its suggestions, or no candidate is left.

        It is never a trial that has ended or is running: then the sampler draws again.

        Args:
            running: trial_id -> number of the suggestion, for running trials; others are ignored.
        """
        now = {i: number for i, number in running.items() if i in self._candidates and i not in self._ended}
        untried = self._candidates.keys() - self._ended.keys() - now.keys()
        if not untried or len(self._ended) + len(now) >= self._search.trials:
            return None
        number = 1 + max((*(number for number, _ in self._ended.values()), *now.values()), default=0)
        return Suggestion(self._candidates[self._choose(untried, now, number)], number)

    def _choose(self, untried: Collection[str], running: Collection[str], number: int) -> str:
        rng = random.Random(f"{self._search.seed} {number}")
        explores = self._search.sampler == "tpe" and number % EXPLORE_EVERY == 0
        study = self._study(running, _new_sampler(self._search, seed=rng.getrandbits(32)))
        for _ in range(0 if explores else RETRIES):
            trial = study.ask(self._space.distributions)
            trial_id = self._space.trial_at(trial.params)
            if trial_id is not None and trial_id in untried:
                return trial_id
            study.tell(trial, state=TrialState.FAIL)  # teaches the sampler nothing; its next draw differs
        return rng.choice(sorted(untried))

    def _study(self, running: Collection[str], sampler: BaseSampler) -> optuna.Study:
        """Return a study of all ended and running trials, in the order of suggestion."""
        study = optuna.create_study(directions=self._directions, sampler=sampler)
        in_order = sorted(self._ended, key=lambda i: (self._ended[i][0], i))
        study.add_trials(self._ended[i][1] for i in in_order)
        study.add_trials(self._trial(i, self._space.point(i), TrialState.RUNNING) for i in sorted(running))
        return study

    def _convert(self, row: Mapping[str, Any], params: Mapping[str, Any]) -> FrozenTrial:
        """Return a row as Optuna's trial: complete, pruned, or failed, also if a value is missing."""
        values = [_value(row, column) for column in self._plan.objectives]
        bounds = [(bound, _value(row, bound.column)) for bound in self._plan.constraints]
        if row["status"] == "pruned":
            # Optuna uses intermediate values with one objective, and refuses them with several.
            known = len(values) == 1 and values[0] is not None and not pd.isna(row["last_epoch"])
            last = {int(row["last_epoch"]): values[0]} if known else {}
            return self._trial(row["trial_id"], params, TrialState.PRUNED, intermediate_values=last)
        if row["status"] != "completed" or None in values or any(value is None for _, value in bounds):
            return self._trial(row["trial_id"], params, TrialState.FAIL)
        violations = {str(bound): bound.violation(value) for bound, value in bounds if value is not None}
        return self._trial(row["trial_id"], params, TrialState.COMPLETE, values=values, constraints=violations)

    def _trial(self, trial_id: str, params: Mapping[str, Any], state: TrialState, **known: Any) -> FrozenTrial:
        return create_trial(
            state=state,
            params=dict(params),
            distributions={name: self._space.distributions[name] for name in params},
            user_attrs={"trial_id": trial_id},
            **known,
        )


def _new_sampler(search: Search, *, seed: int) -> BaseSampler:
    """Return a new sampler of the kind that the search names."""
    if search.sampler == "tpe":
        startup = min(STARTUP_TRIALS, int(STARTUP_SHARE * search.trials))
        return TPESampler(multivariate=True, n_startup_trials=startup, seed=seed)
    if search.sampler == "nsga2":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            mutation = PolynomialMutation()
        return _ElitistSampler(population_size=POPULATION, mutation=mutation, seed=seed)
    return RandomSampler(seed=seed)


class _ElitistSampler(NSGAIISampler):
    """NSGA-II that selects its parents among all completed trials.

    Optuna's own selects them from the last full generation, so it learns nothing from a trial until its generation
    is full.
    """

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        return int(len(self.get_population(study, 0)) >= POPULATION)

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if generation == 0 else []


def _value(row: Mapping[str, Any], column: str) -> float | None:
    if column == "train_time_s" and row["measured"] == "isolated":
        column = "isolated_train_time_s"
    value = row[column]
    return None if pd.isna(value) else float(value)
