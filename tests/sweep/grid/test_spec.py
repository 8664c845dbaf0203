"""Grid files: what they mean."""

import textwrap

import pytest

from famba_core.config import FusionConfig, TrainConfig
from sweep.grid.budget import PAPER_GRID, FusionRequest, schedule_on
from sweep.grid.spec import default_profile, load_spec

GOOD = """
study: a_study
reference_patches: 196
baselines: [{strategy: none}]
cases:
  - {strategy: upper, start_layer: 6, r: 9}
profiles:
  laptop: {backbone: vim_nano, dataset: digits, image_size: 8, patch_size: 1, epochs: 12}
"""


@pytest.fixture
def load(tmp_path):
    """Reads a grid given as text."""

    def write_and_load(text):
        path = tmp_path / "grid.yaml"
        path.write_text(textwrap.dedent(text))
        return load_spec(path)

    return write_and_load


def with_space(space, rest=""):
    return f"study: x\nreference_patches: 196\nspace: {space}\nprofiles: {{laptop: {{dataset: digits}}}}\n{rest}"


def total(case):
    return sum(schedule_on(case, PAPER_GRID).schedule)


def test_defaults_and_labels(load):
    spec = load(GOOD)
    assert (spec.study, spec.paper_table, spec.seeds) == ("a_study", None, (0,))
    assert spec.objectives == {"top1_best_pct": "max", "train_time_s": "min", "peak_memory_mib": "min"}
    assert spec.baselines == (FusionRequest(FusionConfig(), reference_patches=196),)
    labels = FusionConfig(strategy="upper", start_layer=6, r=9)
    assert spec.cases == (FusionRequest(labels, reference_patches=196),)
    assert schedule_on(spec.cases[0], PAPER_GRID).schedule == (0,) * 5 + (9,) * 19
    profile = spec.profiles["laptop"]
    assert profile.train == TrainConfig(epochs=12)
    assert (profile.resources.cpus_per_trial, profile.resources.gpus_per_trial) == (1, 0)


def test_a_space_crosses_lists_and_ranges_in_the_grids_order(load):
    spec = load(with_space("{strategy: upper, start_layer: {from: 2, to: 10, step: 4}, r: [1, 2]}"))
    assert [(case.labels.start_layer, case.labels.r) for case in spec.cases] == [
        (2, 1),
        (2, 2),
        (6, 1),
        (6, 2),
        (10, 1),
        (10, 2),
    ]


def test_a_space_drops_keys_that_a_strategy_does_not_take(load):
    space = "{strategy: [none, all, upper], start_layer: [6, 7], r: [1, 2], order: [concat, raster]}"
    spec = load(with_space(space, rest="baselines: [{strategy: all, r: 2}]"))
    labels = [(case.labels.strategy, case.labels.start_layer, case.labels.r, case.labels.order) for case in spec.cases]
    assert labels[:4] == [
        ("none", None, None, "concat"),
        ("all", None, 1, "concat"),
        ("all", None, 1, "raster"),
        ("all", None, 2, "raster"),  # concat is the baseline
    ]
    assert len(labels) == 4 + 2 * 2 * 2


def test_a_budget_gives_every_fusing_case_its_r(load):
    space = "{strategy: [none, upper], start_layer: {from: 6, to: 7}}"
    nearest = load(with_space(space, rest="budget: {reduced_tokens: 168}"))
    assert [(case.labels.r, total(case)) for case in nearest.cases] == [(None, 0), (9, 171), (9, 162)]
    exact = load(with_space(space, rest="budget: {reduced_tokens: 168, rule: exact}"))
    assert [(case.labels.r, total(case)) for case in exact.cases] == [(None, 0), (None, 168), (None, 168)]


def test_yaml_as_people_write_it(load):
    spec = load("""
        study: 2026-11-21
        cases: [{strategy: all, r: 1}]
        profiles:
          common: &common {dataset: digits, lr: 1e-3, weight_decay: 0, epochs: 3, warmup_epochs: 1}
          longer: {<<: *common, epochs: 30}
    """)
    assert spec.study == "2026-11-21"
    assert spec.profiles["common"].train.lr == 1e-3
    assert spec.profiles["common"].train.weight_decay == 0.0
    assert spec.profiles["longer"].train == TrainConfig(lr=1e-3, weight_decay=0.0, epochs=30, warmup_epochs=1)


def test_a_list_of_backbones_makes_a_model_each(load):
    spec = load(GOOD.replace("vim_nano", "[vim_nano, vim_nano_small]"))
    assert [model.backbone for model in spec.profiles["laptop"].models] == ["vim_nano", "vim_nano_small"]


@pytest.mark.parametrize(
    ("has_gpu", "has_cifar100", "name"),
    [(True, True, "paper"), (True, False, "laptop"), (False, True, "laptop"), (False, False, "laptop")],
)
def test_the_default_profile_is_the_papers_only_where_it_can_run(load, has_gpu, has_cifar100, name):
    spec = load(GOOD + "  paper: {gpus_per_trial: 1}\n")
    chosen, reason = default_profile(spec, has_gpu=has_gpu, has_cifar100=has_cifar100)
    assert chosen == name
    assert name in reason
    assert ("no GPU" in reason) == (not has_gpu)
    assert ("no CIFAR-100" in reason) == (not has_cifar100)


def test_the_default_profile_of_a_grid_with_neither_is_its_first(load):
    spec = load(GOOD.replace("laptop:", "mine:") + "  yours: {}\n")
    assert default_profile(spec, has_gpu=True, has_cifar100=True)[0] == "mine"
