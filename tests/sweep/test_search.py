"""What a search suggests: a function of the stored rows, never anything twice, within its space and its constraints."""

from __future__ import annotations

import itertools
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from fake_training import fake_trial
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sweep.grid.search_spec import Constraint, Sampler, Search
from sweep.plan import Case, Plan, TrialPlan
from sweep.search import OptunaSearch
from sweep.simulated.comparison import dominated_volume, grid_plan

OBJECTIVES = {"top1_best_pct": "max", "train_time_s": "min", "peak_memory_mib": "min"}
SAMPLERS: tuple[Sampler, ...] = ("tpe", "nsga2", "random")


def trial_of(name: str) -> TrialPlan:
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
    """Two baselines' worth of strategies: 24 start layers, 24 stop layers, two orders; all and its equals are one."""
    cases = [case_of("none", strategy="none", baseline=True)]
    for order, layer in itertools.product(("concat", "raster"), range(1, 25)):
        upper = f"all-{order}" if layer == 1 else f"upper{layer}-{order}"
        lower = f"all-{order}" if layer == 24 else f"lower{layer}-{order}"
        cases.append(case_of(upper, start_layer=layer, order=order))
        cases.append(case_of(lower, strategy="lower", stop_layer=layer, order=order))
    return plan_of_cases(cases, sampler, **fields)


def row_of(trial: TrialPlan, status: str = "completed", **columns: Any) -> dict[str, Any]:
    """Numbers that depend on the trial alone, as columns of a stored row."""
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
    return {"trial_id": trial.trial_id, "suggestion": trial.suggestion, "status": status} | measured | columns


def suggestions(search: OptunaSearch, n: int, end: Callable[[TrialPlan], dict[str, Any]] = row_of) -> list[TrialPlan]:
    """What one worker would be given, one after the other."""
    found = []
    while len(found) < n and (trial := search.suggest(())):
        found.append(trial)
        search.tell(end(trial))
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_schedule_is_suggested_once_and_baselines_never(sampler):
    plan = small_plan(sampler)
    found = suggestions(OptunaSearch(plan), 1000)
    assert sorted(trial.trial_id for trial in found) == sorted(t.trial_id for t in plan.trials if t.trial_id != "none")
    assert [trial.suggestion for trial in found] == list(range(1, 95))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_is_rebuilt_after_every_row_suggests_the_same(sampler):
    plan = small_plan(sampler)
    undisturbed = suggestions(OptunaSearch(plan), 45)
    rows: list[dict[str, Any]] = []
    rebuilt = []
    for _ in range(45):
        search = OptunaSearch(plan)
        for row in random.Random(len(rows)).sample(rows, len(rows)):  # in whatever order the store gives them
            search.tell(row)
        killed_before_it_ran = search.suggest(())
        rebuilt.append(search.suggest(()))
        assert rebuilt[-1] == killed_before_it_ran
        rows.append(row_of(rebuilt[-1]))
    assert rebuilt == undisturbed


def test_seeds_and_samplers_differ():
    first = [tuple(t.trial_id for t in suggestions(OptunaSearch(small_plan(seed=s)), 12)) for s in range(3)]
    assert len(set(first)) == 3
    by_sampler = [tuple(t.trial_id for t in suggestions(OptunaSearch(small_plan(s)), 40)) for s in SAMPLERS]
    assert len(set(by_sampler)) == 3


def test_another_process_with_another_hash_seed_suggests_the_same():
    script = (
        "import itertools, sweep.simulated.comparison as c\n"
        "for name in ('tpe', 'nsga2', 'random'):\n"
        "    print(*itertools.islice(c.suggested(c.grid_plan(name, 0)), 25), sep='\\n')"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert len(said[0]) == 75


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_runs_is_not_suggested_and_numbers_are_never_used_twice(sampler):
    plan = small_plan(sampler)
    rng = random.Random(0)
    search, running, rows = OptunaSearch(plan), [], []
    for step in range(140):
        if len(running) < 4 and (trial := search.suggest(running)):
            running.append(trial)
        elif running:
            rows.append(row_of(running.pop(rng.randrange(len(running)))))
            search.tell(rows[-1])
        if step % 20 == 19:  # the driver dies; what ran goes on from its checkpoints
            search = OptunaSearch(plan)
            for row in rows:
                search.tell(row)
    tried = [*rows, *(row_of(trial) for trial in running)]
    assert len(tried) > 60
    assert len({row["trial_id"] for row in tried}) == len(tried)
    assert sorted(row["suggestion"] for row in tried) == list(range(1, len(tried) + 1))


def test_it_ends_with_the_trials_that_were_asked_for_and_those_that_run_count():
    plan = small_plan("random", trials=5)
    search = OptunaSearch(plan)
    running = []
    for _ in range(5):
        running.append(search.suggest(running))
    assert search.suggest(running) is None
    for trial in running:
        search.tell(row_of(trial))
    assert search.suggest(()) is None
    assert len({trial.trial_id for trial in running}) == 5


def test_running_baselines_and_their_rows_take_no_part():
    plan = small_plan("tpe", trials=2)
    baseline = plan.trials[0]
    with_baseline, without = OptunaSearch(plan), OptunaSearch(plan)
    with_baseline.tell(row_of(baseline))
    assert with_baseline.suggest([baseline]) == without.suggest(())
    assert with_baseline.suggest([plan.trials[1], baseline]) is not None


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_failed_pruned_and_numberless_rows_are_taken_as_what_they_are(sampler, monkeypatch):
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
def test_with_one_objective_a_pruned_trial_has_what_it_reached(sampler, monkeypatch):
    plan = small_plan(sampler, objectives={"top1_best_pct": "max"})
    studies = spy_on_studies(monkeypatch)
    early = {"status": "pruned", "epochs": 300, "last_epoch": 9, "train_time_s": None}
    suggestions(OptunaSearch(plan), 40, lambda trial: row_of(trial) | (early if trial.suggestion % 2 else {}))
    assert studies[-1][0].state == TrialState.PRUNED
    name = studies[-1][0].user_attrs["trial_id"]
    assert studies[-1][0].intermediate_values == {9: row_of(trial_of(name))["top1_best_pct"]}


def test_isolated_times_count_where_there_are_some(monkeypatch):
    studies = spy_on_studies(monkeypatch)
    search = OptunaSearch(small_plan())
    suggestions(search, 2, lambda trial: row_of(trial) | {"measured": "isolated", "isolated_train_time_s": 7.0})
    assert studies[-1][0].values[1] == 7.0


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_constraints_turn_the_search_to_what_meets_them(sampler):
    """Accuracy asks for early layers, the bound for late ones."""

    def end(trial: TrialPlan) -> dict[str, Any]:
        layer = layers[trial.trial_id]
        return row_of(trial) | {"top1_best_pct": 400.0 - layer, "peak_memory_mib": 400.0 - layer}

    points = itertools.product(range(1, 401), ("concat", "raster"))
    cases = [case_of(f"upper{layer}-{order}", start_layer=layer, order=order) for layer, order in points]
    layers = {case.trial_id: case.start_layer or 0 for case in cases}

    def late_layers(*constraints: Constraint) -> int:
        plan = plan_of_cases(cases, sampler, objectives={"top1_best_pct": "max"}, constraints=constraints)
        found = suggestions(OptunaSearch(plan), 80, end)
        return sum(layers[trial.trial_id] >= 300 for trial in found)

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


def spy_on_studies(monkeypatch: pytest.MonkeyPatch) -> list[list[optuna.trial.FrozenTrial]]:
    """The trials that each suggestion's study was given."""
    built = []
    original = OptunaSearch._study

    def spy(self: OptunaSearch, *given: Any) -> optuna.Study:
        study = original(self, *given)
        built.append(study.get_trials())
        return study

    monkeypatch.setattr(OptunaSearch, "_study", spy)
    return built


def parameters(monkeypatch: pytest.MonkeyPatch, plan: Plan) -> dict[str, Any]:
    studies = spy_on_studies(monkeypatch)
    suggestions(OptunaSearch(plan), 2)
    return studies[-1][0].distributions


def test_parameters_are_the_labels_that_vary(monkeypatch):
    assert set(parameters(monkeypatch, small_plan())) == {"strategy", "start_layer", "stop_layer", "order"}


def test_r_is_a_parameter_where_it_is_free_and_not_where_a_budget_derives_it(monkeypatch):
    derived = [case_of(f"upper{layer}", start_layer=layer, r=168 // (25 - layer)) for layer in range(2, 20)]
    assert set(parameters(monkeypatch, plan_of_cases(derived))) == {"start_layer"}
    free = [case_of(f"upper{n}-{r}", start_layer=n, r=r) for n, r in itertools.product(range(4, 20, 4), (1, 3, 9))]
    found = parameters(monkeypatch, plan_of_cases(free))
    assert found["start_layer"] == optuna.distributions.IntDistribution(4, 16, step=4)
    assert found["r"] == optuna.distributions.IntDistribution(1, 9, step=2)


def test_a_space_of_one_schedule_has_no_parameter_and_still_its_trial():
    found = suggestions(OptunaSearch(plan_of_cases([case_of("only", start_layer=3)])), 10)
    assert [trial.trial_id for trial in found] == ["only"]


def read_journal(file: Path) -> optuna.Study:
    return optuna.load_study(study_name="study", storage=JournalStorage(JournalFileBackend(str(file))))


def test_the_storage_opens_with_optuna_and_holds_what_ended(tmp_path):
    file = tmp_path / "optuna.log"
    search = OptunaSearch(small_plan(), file)
    found = suggestions(search, 5)
    study = read_journal(file)
    assert [trial.user_attrs["trial_id"] for trial in study.get_trials()] == [trial.trial_id for trial in found]
    assert all(trial.state == TrialState.COMPLETE for trial in study.get_trials())
    assert study.metric_names == list(OBJECTIVES)
    assert study.get_trials()[0].values == [row_of(found[0])[column] for column in OBJECTIVES]
    for trial in study.get_trials():  # nothing made up: a start layer of upper alone
        assert ("start_layer" in trial.params) == (trial.params["strategy"] == "upper")
    assert list(tmp_path.iterdir()) == [file], "no lock is left, or waited for"


@pytest.mark.parametrize("damage", [b"", b"\x00\xff{", b'{"op_code":0}\n', None])
def test_a_damaged_or_missing_storage_does_not_matter(tmp_path, damage):
    file = tmp_path / "optuna.log"
    plan = small_plan()
    before = suggestions(OptunaSearch(plan, file), 4)
    file.unlink() if damage is None else file.write_bytes(damage)
    (tmp_path / "optuna.log.lock").touch()  # as a process killed with Optuna's own lock leaves it
    search = OptunaSearch(plan, file)
    for trial in before:
        search.tell(row_of(trial))
    after = suggestions(search, 2)
    file.unlink()  # while the search runs
    after += suggestions(search, 2)
    assert [trial.trial_id for trial in before + after] == [t.trial_id for t in suggestions(OptunaSearch(plan), 8)]
    assert len(read_journal(file).get_trials()) == 8


def test_a_storage_that_cannot_be_written_is_warned_of_and_written_later(tmp_path):
    """A folder has the file's name: nobody can append there, nor put a file in its place."""
    file = tmp_path / "optuna.log"
    search = OptunaSearch(small_plan(), file)
    found = suggestions(search, 3)
    file.rename(tmp_path / "moved")
    file.mkdir()
    with pytest.warns(UserWarning, match=r"optuna\.log: cannot be written: Is a directory"):
        found += suggestions(search, 2)
    file.rmdir()
    (tmp_path / "moved").rename(file)
    file.write_bytes(file.read_bytes() + b'{"op_co')  # as a disk that is full cuts it
    found += suggestions(search, 1)
    assert [trial.trial_id for trial in found] == [t.trial_id for t in suggestions(OptunaSearch(small_plan()), 6)]
    assert [t.user_attrs["trial_id"] for t in read_journal(file).get_trials()] == [trial.trial_id for trial in found]


def test_the_volume_of_boxes_is_that_of_a_fine_grid_of_points():
    rng = random.Random(0)
    points = [[rng.randint(1, 6) for _ in range(3)] for _ in range(8)]
    cells = itertools.product(range(6), repeat=3)
    inside = sum(any(all(c < p for c, p in zip(cell, point, strict=True)) for point in points) for cell in cells)
    assert dominated_volume(np.array(points, float)) == inside
    assert dominated_volume(np.empty((0, 3))) == 0


def test_the_compared_space_is_every_feasible_schedule_once():
    plan = grid_plan("tpe", 0)
    schedules = [trial.fusion.schedule for trial in plan.trials]
    assert len(set(schedules)) == len(schedules) == 606
    assert len(plan.cases) == 620
    # all layers at r 8: 197 - 23 * 8 = 13 tokens reach layer 24, which can fuse 6 away
    by_strategy = {s: {case.r for case in plan.cases if case.strategy == s} for s in ("all", "interleaved")}
    assert by_strategy == {"all": set(range(1, 8)), "interleaved": set(range(1, 16))}
