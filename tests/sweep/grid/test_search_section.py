"""What a grid says of its search, early stop, constraints and pool: what it means, and what is wrong with it."""

import textwrap

import pytest

from sweep.errors import UserError
from sweep.grid.budget import PAPER_GRID, schedule_on
from sweep.grid.objectives import Constraint
from sweep.grid.resources import Pool
from sweep.grid.search import EarlyStop, Search
from sweep.grid.spec import load_spec

GRID = """
study: x
reference_patches: 196
cases: [{strategy: all, r: 1}, {strategy: all, r: 2}, {strategy: all, r: 3}, {strategy: all, r: 4}]
profiles: {laptop: {dataset: digits, epochs: 12}}
"""


@pytest.fixture
def load(tmp_path):
    def write_and_load(rest, text=GRID):
        path = tmp_path / "grid.yaml"
        path.write_text(textwrap.dedent(text) + rest)
        return load_spec(path)

    return write_and_load


@pytest.fixture
def problems(load):
    """Everything that is wrong with a grid, as {key: sentence}."""

    def said(rest, text=GRID):
        with pytest.raises(UserError) as error:
            load(rest, text)
        return {problem.key: problem.sentence for problem in error.value.problems}

    return said


@pytest.mark.parametrize(
    ("rest", "search", "stop"),
    [
        ("", None, None),
        ("search: {kind: grid}", None, None),
        ("search: {kind: grid, early_stop: asha}", None, EarlyStop()),
        ("search: {kind: asha}", None, EarlyStop()),
        ("search: {kind: asha, min_epochs: 3, reduction_factor: 4}", None, EarlyStop(min_epochs=3, reduction_factor=4)),
        ("early_stop: asha", None, EarlyStop()),
        ("early_stop: {kind: asha, min_epochs: 2}", None, EarlyStop(min_epochs=2)),
        ("search: {kind: optuna}", Search(), None),
        ("search: {kind: optuna, sampler: nsga2, trials: 9, seed: 3}", Search(sampler="nsga2", trials=9, seed=3), None),
        ("search: {kind: optuna, early_stop: {kind: asha, min_epochs: 2}}", Search(), EarlyStop(min_epochs=2)),
        ("search: {kind: optuna}\nearly_stop: asha", Search(), EarlyStop()),
    ],
)  # fmt: skip
def test_searches_and_early_stops(load, rest, search, stop):
    spec = load(rest)
    assert (spec.search, spec.early_stop) == (search, stop)


def test_constraints_are_bounds_on_columns(load):
    memory = Constraint(column="peak_memory_mib", relation="<=", bound=6000.0)
    accuracy = Constraint(column="top1_best_pct", relation=">=", bound=81.5)
    optuna = "search: {kind: optuna}\n"
    assert load(f"{optuna}constraints: peak_memory_mib <= 6000").constraints == (memory,)
    both = load(f"{optuna}constraints: [peak_memory_mib<=6e3, ' top1_best_pct  >= 81.5 ']")
    assert both.constraints == (memory, accuracy)
    assert load(optuna).constraints == ()


@pytest.mark.parametrize(
    ("rest", "key", "sentence"),
    [
        ("search: {}", "search.kind", "is required"),
        ("search: optuna", "search", "must be a mapping, not 'optuna'"),
        ("search: {kind: bayes}", "search.kind", "must be grid, optuna or asha, not 'bayes'"),
        ("search: {kind: optuna, sampler: cmaes}", "search.sampler", "must be tpe, nsga2 or random, not 'cmaes'"),
        ("search: {kind: optuna, trials: 0}", "search.trials", "must be at least 1, not 0"),
        ("search: {kind: optuna, seed: -1}", "search.seed", "must be at least 0, not -1"),
        ("search: {kind: optuna, trails: 3}", "search.trails", "'trails' is not known; did you mean trials?"),
        ("search: {kind: grid, trials: 3}", "search.trials", "is for kind optuna, and the kind is grid"),
        ("search: {kind: optuna, min_epochs: 3}", "search.min_epochs", "is for kind asha, and the kind is optuna"),
        ("search: {kind: asha, early_stop: asha}", "search.early_stop", "is for kind grid or optuna, and the kind is"),
        ("search: {kind: asha, reduction_factor: 1}", "search.reduction_factor", "must be at least 2, not 1"),
        ("search: {kind: asha}\nearly_stop: asha", "early_stop", "cannot stand with search.early_stop; keep one"),
        ("search: {kind: optuna, early_stop: asha}\nearly_stop: asha", "early_stop", "cannot stand with search.early"),
        ("early_stop: median", "early_stop.kind", "must be asha, not 'median'"),
        ("early_stop: 3", "early_stop", "must be a mapping with keys kind, min_epochs, reduction_factor, not 3"),
        ("early_stop: {min_epochs: 3}", "early_stop.kind", "is required"),
        ("early_stop: {kind: asha, min_epochs: 0}", "early_stop.min_epochs", "must be at least 1, not 0"),
        ("constraints: [top1_pct >= 3]", "constraints", "steer an optuna search, and this grid has none"),
        ("pool: {max_concurrent: 0}", "pool.max_concurrent", "must be from 1 to 100000, not 0"),
        ("pool: {max_concurent: 1}", "pool.max_concurent", "'max_concurent' is not known; did you mean max_con"),
        ("pool: {gpus_per_trial: all}", "pool.gpus_per_trial", "must be a number or pack, not 'all'"),
        ("pool: {gpus_per_trial: 2}", "pool.gpus_per_trial", "must be from 0 to 1, not 2"),
        ("pool: {gpus_per_trial: [1]}", "pool.gpus_per_trial", "must be a number, not [1]"),
        ("pool: {gpus_per_trial: true}", "pool.gpus_per_trial", "must be a number, not true"),
        ("pool: {gpus_per_trial: 0.001}", "pool.gpus_per_trial", "must be 0 or at least 0.01, not 0.001"),
        ("pool: {time_limit_h: 1e308}", "pool.time_limit_h", "must be above 0 and at most 100000, not 1e+308"),
        ("pool: {grace_s: 1e6}", "pool.grace_s", "must be from 0 to 86400, not 1000000.0"),
        ("pool: {cpus_per_trial: 1000000}", "pool.cpus_per_trial", "must be from 1 to 1024, not 1000000"),
        ("pool: {accelerator_type: ''}", "pool.accelerator_type", "must be a name such as A100, not ''"),
        ("pool: {accelerator_type: 'A 100'}", "pool.accelerator_type", "must be a name such as A100, not 'A 100'"),
        ("pool: {grace_s: .inf}", "pool.grace_s", "must be a finite number, not inf"),
        ("pool: 3", "pool", "must be a mapping, not 3"),
    ],
)  # fmt: skip
def test_wrong_sections(problems, rest, key, sentence):
    ((where, said),) = problems(rest).items()
    assert where == key
    assert said.startswith(sentence)


@pytest.mark.parametrize(
    ("constraints", "key", "sentence"),
    [
        ("[peak_memory <= 6000]", "constraints[0]", "'peak_memory' is not known; did you mean peak_memory_mib?"),
        ("[backbone <= 6000]", "constraints[0]", "'backbone' is not known"),
        ("[peak_memory_mib < 6000]", "constraints[0]", "must be a column, <= or >=, and a number, such as"),
        ("[top1_pct >= 1, peak_memory_mib <= 6 GiB]", "constraints[1]", "must be a column, <= or >=, and a number"),
        ("3", "constraints", "must be a column"),
        ("[[top1_pct >= 1]]", "constraints[0]", "must be a column"),
        ("[top1_pct >= nan]", "constraints[0]", "must be a column"),
        ("[top1_pct >= ١]", "constraints[0]", "must be a column"),
        ("[peak_memory_mib <= 1e999]", "constraints[0]", "must be a column"),
        (
            "[attempt <= 3]",
            "constraints[0]",
            "attempt is an input of a trial, not a result; choose from",
        ),
        (
            "[top1_pct >= 101]",
            "constraints[0]",
            "no trial can keep top1_pct >= 101: top1_pct is from 0",
        ),
        (
            "peak_memory_mib <= -1",
            "constraints",
            "no trial can keep peak_memory_mib <= -1: peak_memory_mib is",
        ),
        ("[top1_pct >= 50, top1_pct >= 50]", "constraints[1]", "bounds top1_pct on the same side as constraints[0]"),
        (
            "[top1_pct <= 40, top1_pct >= 50]",
            "constraints[1]",
            "no trial can keep both top1_pct >= 50 and top1_pct <= 40",
        ),
    ],
)
def test_wrong_constraints(problems, constraints, key, sentence):
    ((where, said),) = problems(f"search: {{kind: optuna}}\nconstraints: {constraints}").items()
    assert where == key
    assert said.startswith(sentence)


@pytest.mark.parametrize(
    ("objectives", "key", "sentence"),
    [
        ("{}", "objectives", "names no column"),
        ("{seed: min}", "objectives.seed", "seed is an input of a trial, not a result; choose from"),
        ("{suggestion: min}", "objectives.suggestion", "suggestion is an input of a trial"),
        ("{backbone: min}", "objectives.backbone", "'backbone' is not known"),
        (
            "{top1_pct: max, top5_pct: max, final_loss: min, train_time_s: min, wall_time_s: min, step_time_ms: min}",
            "objectives",
            "names 6 columns, and 5 are the most",
        ),
    ],
)
def test_wrong_objectives(problems, objectives, key, sentence):
    ((where, said),) = problems(f"objectives: {objectives}").items()
    assert where == key
    assert said.startswith(sentence)


def test_what_a_profile_never_measures_is_no_goal(problems):
    text = GRID.replace("epochs: 12", "epochs: 12, ema: false")
    found = problems("search: {kind: optuna}\nconstraints: top5_ema_pct >= 9\nobjectives: {top1_ema_pct: max}", text)
    assert found == {
        "objectives.top1_ema_pct": "top1_ema_pct is of averaged weights, and there are none with ema: false in laptop",
        "constraints": "top5_ema_pct is of averaged weights, and there are none with ema: false in laptop",
    }


@pytest.mark.parametrize(
    ("rest", "key", "sentence"),
    [
        (
            "early_stop: {kind: asha, min_epochs: 12}",
            "early_stop.min_epochs",
            "12 ends no trial of profile laptop",
        ),
        (
            "search: {kind: asha, min_epochs: 99}",
            "search.min_epochs",
            "99 ends no trial of profile laptop early",
        ),
        (
            "early_stop: {kind: asha, reduction_factor: 5}",
            "early_stop.reduction_factor",
            "5 ends no trial early",
        ),
        (
            "search: {kind: optuna, trials: 2, early_stop: asha}",
            "search.early_stop.reduction_factor",
            "3 ends no trial early: it must be at most the 2 that are compared",
        ),
    ],
)
def test_an_early_stop_that_can_never_act(load, problems, rest, key, sentence):
    ((where, said),) = problems(rest).items()
    assert where == key
    assert said.startswith(sentence)
    assert load("early_stop: {kind: asha, min_epochs: 11, reduction_factor: 4}").early_stop


def test_a_search_compares_cases_and_nothing_else(problems):
    many = GRID.replace("dataset: digits", "dataset: digits, backbone: [vim_tiny, vim_small]") + "seeds: [0, 1]\n"
    found = problems("search: {kind: optuna}", many)
    assert found == {
        "seeds": "a search trains with one seed, not 2: [0, 1]",
        "profiles.laptop.backbone": "a search trains one backbone, not 2: vim_tiny, vim_small",
    }


def test_a_pool_is_read(load):
    spec = load(
        "pool: {gpus_per_trial: pack, cpus_per_trial: 4, accelerator_type: H100, max_concurrent: 3, grace_s: 5}"
    )
    assert spec.pool == Pool(
        gpus_per_trial="pack", cpus_per_trial=4, accelerator_type="H100", max_concurrent=3, grace_s=5.0
    )
    assert load("pool: {gpus_per_trial: 0.25}").pool == Pool(gpus_per_trial=0.25)
    assert load("").pool == Pool()


SPACE = """
study: x
reference_patches: 196
space: {strategy: [all, upper], start_layer: {from: 1, to: 24}, r: {from: 1, to: 15}}
profiles: {paper: {dataset: digits}, tiny: {dataset: digits, backbone: vim_nano, image_size: 16}}
"""


def test_a_searched_space_is_what_the_tokens_allow(load, problems):
    spec = load("search: {kind: optuna}", SPACE)
    # all: 24 r + r <= 196; upper from layer s with n = 25 - s layers: n r + r <= 196
    allowed = [("all", None, r) for r in range(1, 16) if 25 * r <= 196]
    allowed += [("upper", s, r) for s in range(1, 25) for r in range(1, 16) if (26 - s) * r <= 196]
    assert [(case.labels.strategy, case.labels.start_layer, case.labels.r) for case in spec.cases] == allowed
    assert spec.left_out == 15 + 24 * 15 - len(allowed)
    found = problems("", SPACE)  # without a search the same space is refused
    assert "layer 24 would remove" in found["space.r"]


def test_a_searched_space_with_a_budget_is_what_both_allow(load):
    text = SPACE.replace(", r: {from: 1, to: 15}", "")
    spec = load("search: {kind: optuna}\nbudget: {reduced_tokens: 168, tolerance: 0.02}", text)
    assert 0 < len(spec.cases) < 25
    assert all(abs(sum(schedule_on(case, PAPER_GRID).schedule) - 168) <= 0.02 * 168 for case in spec.cases)
    assert len(spec.cases) + spec.left_out == 25


def test_listed_cases_are_refused_in_a_search_too(problems):
    text = GRID.replace("{strategy: all, r: 1}", "{strategy: all, r: 8}")
    assert "largest r is 7" in problems("search: {kind: optuna}", text)["cases[0].r"]


def test_mistakes_in_a_searched_space_are_not_left_out_in_silence(problems):
    found = problems("search: {kind: optuna}", SPACE.replace("to: 24}", "to: 25}"))
    assert found == {"space.start_layer": "must be a layer from 1 to 24, not 25"}


def test_a_space_of_which_nothing_is_left(problems):
    none = SPACE.replace("r: {from: 1, to: 15}", "r: 99").replace("from: 1, to: 24", "from: 1, to: 20")
    found = problems("search: {kind: optuna}", none)
    assert found == {"space": "none of its 21 cases is within 197 tokens and the budget"}
    only_large = SPACE.replace("[all, upper], start_layer: {from: 1, to: 24}", "interleaved").replace(
        "{from: 1, to: 15}", "15"
    )
    found = problems("search: {kind: optuna}", only_large)
    assert found == {"space": "in profile tiny (17 tokens), none of its 1 case has the tokens it would remove"}


def test_a_space_is_not_endless(problems):
    # for each strategy only the keys that it takes are crossed: 24 x 196 x 2 x 2 each for lower and upper
    layers, r = "{from: 1, to: 24}", "{from: 1, to: 196}"
    space = f"{{strategy: [lower, upper], start_layer: {layers}, stop_layer: {layers}, r: {r}, "
    space += "order: [concat, raster], weighting: [mean, size]}"
    text = SPACE[: SPACE.index("space:")] + f"space: {space}" + SPACE[SPACE.index("\nprofiles") :]
    assert problems("search: {kind: optuna}", text)["space"].startswith(
        "has 37632 combinations, and 20000 are the most"
    )
