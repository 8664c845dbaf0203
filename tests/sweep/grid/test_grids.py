"""The grids that ship: they hold the paper's rows, and every profile of them can be planned."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from famba_core.backbones import BACKBONES
from famba_core.config import DataConfig
from famba_core.fusion.schedule import tokens_per_layer
from sweep.grid.spec import load_spec
from sweep.plan.build import make_plan

GRIDS = Path(__file__).parents[3] / "grids"
PROFILES = ("paper", "cifar-small", "laptop")

# (start_layer, r) and the tokens that 24 mixers see in all: 24 * 197 less, for each of the n fusing layers, r times the
# layers from it to the last, r * n (n + 1) / 2 for a run that ends at layer 24. Worked out by hand.
TABLE_2 = [
    ((15, 15), 3903), ((14, 14), 3804), ((13, 13), 3714), ((12, 12), 3636), ((11, 12), 3468), ((10, 11), 3408),
    ((9, 10), 3368), ((8, 10), 3198), ((7, 9), 3189), ((6, 9), 3018), ((5, 8), 3048), ((4, 8), 2880), ((3, 7), 2957),
    ((2, 7), 2796),
]  # fmt: skip
TABLE_3 = [
    ((6, 9), 3018), ((6, 8), 3208), ((6, 7), 3398), ((6, 6), 3588), ((6, 5), 3778), ((6, 4), 3968), ((6, 3), 4158),
    ((6, 2), 4348), ((6, 1), 4538),
]  # fmt: skip
TABLE_1 = [
    (("none", None, None, None), 4728),
    (("all", None, None, 7), 2628),
    (("interleaved", None, None, 14), 2712),
    (("lower", None, 19, 9), 2163),
    (("upper", 6, None, 9), 3018),
]


def plan_of(name, profile):
    """The plan of a shipped grid, with digits in place of images that would have to be downloaded."""
    spec = load_spec(GRIDS / f"{name}.yaml")
    digits = {
        key: dataclasses.replace(value, data=DataConfig(dataset="digits")) for key, value in spec.profiles.items()
    }
    return make_plan(dataclasses.replace(spec, profiles=digits), profile)


def rows_of(plan):
    """Each case's labels with its trial's schedule."""
    trials = {trial.trial_id: trial for trial in plan.trials}
    return [(case, trials[case.trial_id]) for case in plan.cases]


@pytest.mark.parametrize("name", sorted(path.stem for path in GRIDS.glob("*.yaml")))
def test_every_grid_has_the_three_profiles_and_can_be_planned_in_each(name):
    for profile in PROFILES:
        plan = plan_of(name, profile)
        assert plan.study == name
        assert plan.first_cases[plan.trials[0].trial_id].strategy == "none"
        assert {trial.profile for trial in plan.trials} == {profile}


@pytest.mark.parametrize(("name", "table"), [("starting_layer", TABLE_2), ("tokens_per_layer", TABLE_3)])
def test_paper_rows_of_tables_2_and_3(name, table):
    baseline, *rows = rows_of(plan_of(name, "paper"))
    assert baseline[0].baseline
    assert sum(tokens_per_layer(baseline[1].fusion.schedule, 197)) == 4728
    tokens = [sum(tokens_per_layer(trial.fusion.schedule, 197)) for _, trial in rows]
    assert [((case.start_layer, case.r), total) for (case, _), total in zip(rows, tokens, strict=True)] == table
    for case, trial in rows:
        before = case.start_layer - 1
        assert trial.fusion.schedule == (0,) * before + (case.r,) * (24 - before)


def test_paper_rows_of_table_1_on_both_backbones():
    rows = rows_of(plan_of("strategies", "paper"))
    assert [case.backbone for case, _ in rows] == ["vim_tiny"] * 5 + ["vim_small"] * 5
    labelled = [
        ((case.strategy, case.start_layer, case.stop_layer, case.r), sum(tokens_per_layer(trial.fusion.schedule, 197)))
        for case, trial in rows
    ]
    assert labelled == TABLE_1 * 2


def test_the_paper_profile_is_the_papers_recipe():
    for name in ("starting_layer", "tokens_per_layer", "strategies"):
        trial = plan_of(name, "paper").trials[0]
        assert trial.model.num_tokens == 197
        assert (trial.train.epochs, trial.train.batch_size, trial.train.lr) == (300, 128, 1e-3)
        assert (trial.train.weight_decay, trial.train.ema_decay, trial.train.precision) == (0.1, 0.99996, "float32")
        assert (trial.augment.mixup, trial.augment.cutmix, trial.augment.random_erasing) == (0.8, 1.0, 0.25)
        assert load_spec(GRIDS / f"{name}.yaml").profiles["paper"].data.dataset == "cifar100"


# 150 154 156 156 168 165 160 170 162 171 160 168 154 161 and so on, each times patches / 196
TOTALS = {
    "cifar-small": {
        "starting_layer": [49, 50, 51, 51, 55, 54, 52, 56, 53, 56, 52, 55, 50, 53],
        "tokens_per_layer": [56, 50, 43, 37, 31, 25, 19, 12, 6],
        "strategies": [55, 55, 56, 56] * 2,
    },
    "laptop": {
        "starting_layer": [28, 28, 29, 29, 31, 30, 29, 31, 30, 31, 29, 31, 28, 30],
        "tokens_per_layer": [31, 28, 24, 21, 17, 14, 10, 7, 3],
        "strategies": [31, 31, 31, 31] * 2,
    },
}


@pytest.mark.parametrize(("profile", "tokens"), [("cifar-small", 65), ("laptop", 37)])
def test_totals_on_smaller_images(profile, tokens):
    for name, totals in TOTALS[profile].items():
        plan = plan_of(name, profile)
        assert plan.trials[0].model.num_tokens == tokens
        assert [sum(trial.fusion.schedule) for case, trial in rows_of(plan) if not case.baseline] == totals


@pytest.mark.parametrize(("profile", "tokens"), [("paper", 197), ("cifar-small", 65), ("laptop", 37)])
def test_the_searchs_candidates_are_within_its_budget(profile, tokens):
    plan = plan_of("optuna_pareto", profile)
    assert (plan.search.sampler, plan.search.trials) == ("tpe", 40)
    assert {trial.early_stop for trial in plan.trials} == {None}
    assert [(c.column, c.relation, c.bound) for c in plan.constraints] == [("peak_memory_mib", "<=", 6000)]
    share = 168 * (tokens - 1) / 196
    candidates = [(case, trial) for case, trial in rows_of(plan) if not case.baseline]
    for _, trial in candidates:
        assert abs(sum(trial.fusion.schedule) - share) <= 0.05 * share
    assert {case.strategy for case, _ in candidates} == {"all", "interleaved", "lower", "upper"}
    assert len({trial.trial_id for _, trial in candidates}) >= 40
    assert [case.strategy for case, _ in rows_of(plan) if case.baseline] == ["none"]


def test_narrow_backbones_stand_for_the_papers_in_the_order_of_table_1():
    for profile in ("cifar-small", "laptop"):
        models = load_spec(GRIDS / "strategies.yaml").profiles[profile].models
        assert [BACKBONES[model.backbone].stands_for for model in models] == ["vim_tiny", "vim_small"]


def test_the_published_tables_hold_the_same_rows():
    """Rows of the grids and of the published tables must meet, or the report has nothing to set side by side."""
    for name, number in (("strategies", 1), ("starting_layer", 2), ("tokens_per_layer", 3)):
        published = pd.read_csv(GRIDS.parent / "famba_core" / "paper" / f"famba_v_table{number}.csv")
        cases = [case for case in plan_of(name, "paper").cases if number == 1 or not case.baseline]
        assert list(published.strategy) == [case.strategy for case in cases]
        assert list(published.r) == [case.r or 0 for case in cases]


def test_profiles_of_one_name_are_one_recipe():
    """Each grid file can be read alone, so the profiles stand in all of them; they differ in their backbones only."""
    specs = [load_spec(file) for file in sorted(GRIDS.glob("*.yaml"))]
    for name in ("paper", "cifar-small", "laptop"):
        recipes = {
            (spec.profiles[name].data, spec.profiles[name].augment, spec.profiles[name].train,
             spec.profiles[name].resources, spec.profiles[name].models[0])
            for spec in specs
        }  # fmt: skip
        assert len(recipes) == 1, name
