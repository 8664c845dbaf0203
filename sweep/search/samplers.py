"""Optuna's samplers as a search uses them."""

from __future__ import annotations

import warnings

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.samplers.nsgaii import PolynomialMutation
from optuna.trial import FrozenTrial, TrialState

from sweep.grid.search import Search

STARTUP_TRIALS, STARTUP_SHARE = 20, 0.25  # random trials at the start of TPE; at most a quarter of a short search
POPULATION = 10  # of NSGA-II: number of parents, and of random trials at the start


def new_sampler(search: Search, *, seed: int) -> BaseSampler:
    """Return a new sampler of the kind that the search names."""
    if search.sampler == "tpe":
        startup = min(STARTUP_TRIALS, int(STARTUP_SHARE * search.trials))
        return TPESampler(multivariate=True, n_startup_trials=startup, seed=seed)
    if search.sampler == "nsga2":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            mutation = PolynomialMutation()
        return ElitistSampler(population_size=POPULATION, mutation=mutation, seed=seed)
    return RandomSampler(seed=seed)


class ElitistSampler(NSGAIISampler):
    """NSGA-II that selects its parents among all completed trials.

    Optuna's own selects them from the last full generation, so it learns nothing from a trial until its generation
    is full.
    """

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        return int(len(self.get_population(study, 0)) >= POPULATION)

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if generation == 0 else []
