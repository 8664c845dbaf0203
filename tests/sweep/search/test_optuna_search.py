"""Suggestions of a search: they depend on the stored rows alone, none comes twice, and their number is limited."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_search import SAMPLERS, ids, numbers, row_of, small_plan, suggestions

from sweep.search.optuna_search import OptunaSearch


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_schedule_is_suggested_once_and_baselines_never(sampler):
    plan = small_plan(sampler)
    found = suggestions(OptunaSearch(plan), 1000)
    assert sorted(ids(found)) == sorted(t.trial_id for t in plan.trials if t.trial_id != "none")
    assert [suggestion.number for suggestion in found] == list(range(1, 95))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_is_rebuilt_after_every_row_suggests_the_same(sampler):
    plan = small_plan(sampler)
    undisturbed = suggestions(OptunaSearch(plan), 45)
    rows: list[dict[str, Any]] = []
    rebuilt = []
    for _ in range(45):
        search = OptunaSearch(plan)
        for row in random.Random(len(rows)).sample(rows, len(rows)):  # the store may return them in any order
            search.tell(row)
        killed_before_it_ran = search.suggest({})
        rebuilt.append(search.suggest({}))
        assert rebuilt[-1] == killed_before_it_ran
        rows.append(row_of(rebuilt[-1]))
    assert rebuilt == undisturbed


def test_seeds_and_samplers_give_different_suggestions():
    first = [tuple(ids(suggestions(OptunaSearch(small_plan(seed=s)), 12))) for s in range(3)]
    assert len(set(first)) == 3
    by_sampler = [tuple(ids(suggestions(OptunaSearch(small_plan(s)), 40))) for s in SAMPLERS]
    assert len(set(by_sampler)) == 3


def test_suggestions_do_not_depend_on_the_hash_seed():
    script = (
        "import itertools, simulated.comparison as c\n"
        "for name in ('tpe', 'nsga2', 'random'):\n"
        "    print(*itertools.islice(c.suggested(c.grid_plan(name, 0)), 25), sep='\\n')"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=Path(__file__).parents[3],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 75


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_running_trials_are_not_suggested_and_numbers_are_unique(sampler):
    plan = small_plan(sampler)
    rng = random.Random(0)
    search, running, rows = OptunaSearch(plan), [], []
    for step in range(140):
        if len(running) < 4 and (trial := search.suggest(numbers(running))):
            running.append(trial)
        elif running:
            rows.append(row_of(running.pop(rng.randrange(len(running)))))
            search.tell(rows[-1])
        if step % 20 == 19:  # the driver is killed; running trials resume from their checkpoints
            search = OptunaSearch(plan)
            for row in rows:
                search.tell(row)
    tried = [*rows, *(row_of(trial) for trial in running)]
    assert len(tried) > 60
    assert len({row["trial_id"] for row in tried}) == len(tried)
    assert sorted(row["suggestion"] for row in tried) == list(range(1, len(tried) + 1))


def test_a_search_ends_after_its_number_of_trials_counting_running_ones():
    plan = small_plan("random", trials=5)
    search = OptunaSearch(plan)
    running = []
    for _ in range(5):
        running.append(search.suggest(numbers(running)))
    assert search.suggest(numbers(running)) is None
    for trial in running:
        search.tell(row_of(trial))
    assert search.suggest({}) is None
    assert len(set(ids(running))) == 5


def test_baselines_are_ignored_by_the_search():
    plan = small_plan("tpe", trials=2)
    baseline = plan.trials[0]
    with_baseline, without = OptunaSearch(plan), OptunaSearch(plan)
    with_baseline.tell(row_of(baseline))
    assert with_baseline.suggest({baseline.trial_id: 0}) == without.suggest({})
    assert with_baseline.suggest({plan.trials[1].trial_id: 1, baseline.trial_id: 0}) is not None
