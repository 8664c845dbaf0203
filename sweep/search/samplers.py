"""TODO."""

from __future__ import annotations

import warnings

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.samplers.nsgaii import PolynomialMutation
from optuna.trial import FrozenTrial, TrialState

from sweep.grid.search import Search

# Of TPE: what begins a search is drawn at random, and later every third trial; left alone, it stays in the first good
# region that it finds.
STARTUP_TRIALS, STARTUP_SHARE = 20, 0.25  # a quarter of a short search


POPULATION = 10  # of NSGA-II: its parents, and the trials at random that it begins with


def new_sampler(search: Search, *, seed: int) -> BaseSampler:
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
    """NSGA-II whose parents are the best of all that completed, as of now, by its own selection.

    Optuna's breeds from the last whole generation, and so learns from a trial only once its generation is full.
    """

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        return int(len(self.get_population(study, 0)) >= POPULATION)

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if generation == 0 else []
