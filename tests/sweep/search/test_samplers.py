"""NSGA-II varies the best trials so far, and uses each trial as soon as it has ended."""

from __future__ import annotations

from collections.abc import Iterable

from small_search import case_of, plan_of_cases, row_of, trial_of

from sweep.search.optuna_search import OptunaSearch, Suggestion

CASES = {f"upper{layer}": case_of(f"upper{layer}", start_layer=layer) for layer in range(1, 401)}


def next_layers(ended: Iterable[int]) -> list[int]:
    """Return the next start layer for each of 20 seeds, after those in `ended`; later ones have better results."""
    found = []
    for seed in range(20):
        plan = plan_of_cases(list(CASES.values()), "nsga2", seed=seed, objectives={"top1_best_pct": "max"})
        search = OptunaSearch(plan)
        for number, layer in enumerate(ended, start=1):
            search.tell(row_of(Suggestion(trial_of(f"upper{layer}"), number), top1_best_pct=float(layer)))
        suggested = search.suggest({})
        assert suggested
        found.append(CASES[suggested.trial.trial_id].start_layer or 0)
    return found


def test_a_single_parameter_is_mutated_not_drawn_at_random():
    assert all(abs(layer - 200) < 80 for layer in next_layers(range(196, 206)))


def test_parents_are_the_best_of_all_completed_trials():
    few_and_good = [*range(1, 11), *range(391, 396)]
    assert sum(layer > 300 for layer in next_layers(few_and_good)) > 10
    late_and_poor = [*range(381, 396), *range(1, 11)]
    assert sum(layer > 300 for layer in next_layers(late_and_poor)) > 15


def test_the_first_trials_are_random():
    layers = next_layers(range(1, 10))
    assert sum(layer > 200 for layer in layers) > 5
