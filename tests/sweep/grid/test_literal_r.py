"""r and budgets are tokens of the images themselves, unless a grid says that they are the paper's; what cannot run."""

import textwrap

import pytest

from sweep.errors import UserError
from sweep.grid.spec import load_spec
from sweep.plan.build import make_plan

SMALL = """
study: x
baselines: [{strategy: none}]
cases:
  - {strategy: all, r: 1}
  - {strategy: upper, start_layer: 6, r: 1}
profiles:
  laptop: {backbone: vim_nano, dataset: digits, image_size: 12, patch_size: 2}
"""
SPACE = """
study: x
space: {strategy: upper, start_layer: {from: 1, to: 24}, r: {from: 1, to: 15}}
profiles:
  paper: {dataset: digits}
  laptop: {backbone: vim_nano, dataset: digits, image_size: 12, patch_size: 2}
"""


@pytest.fixture
def spec(tmp_path):
    def load(text):
        path = tmp_path / "grid.yaml"
        path.write_text(textwrap.dedent(text))
        return load_spec(path)

    return load


@pytest.fixture
def problems(spec):
    def said(text):
        with pytest.raises(UserError) as error:
            spec(text)
        return [(problem.key, problem.sentence) for problem in error.value.problems]

    return said


def schedules(spec, profile="laptop"):
    """Return the schedule of each case, in the grid's order."""
    plan = make_plan(spec, profile)
    by_id = {trial.trial_id: trial.fusion.schedule for trial in plan.trials}
    return [by_id[case.trial_id] for case in plan.cases]


def test_r_is_r_in_each_fusing_layer_of_small_images(spec):
    assert schedules(spec(SMALL)) == [(0,) * 24, (1,) * 24, (0,) * 5 + (1,) * 19]


def test_reference_patches_scales_the_papers_r(spec):
    scaled = schedules(spec(SMALL.replace("study: x", "study: x\nreference_patches: 196")))
    assert [sum(schedule) for schedule in scaled] == [0, round(24 * 36 / 196), round(19 * 36 / 196)]


def test_a_budget_is_of_the_images_own_tokens(spec):
    text = SMALL.replace(", r: 1", "") + "budget: {reduced_tokens: 25, rule: exact}"
    assert [sum(schedule) for schedule in schedules(spec(text))] == [0, 25, 25]
    nearest = spec(text.replace("rule: exact", "tolerance: 0.3"))
    assert [case.labels.r for case in nearest.cases] == [1, 1]


def test_an_r_that_small_images_cannot_give_names_the_layer_the_largest_and_the_way_to_scale(problems):
    ((key, sentence),) = problems(SMALL.replace("6, r: 1", "6, r: 9"))
    assert key == "cases[1]"
    assert sentence == (
        "in profile laptop (37 tokens), upper from layer 6, r 9: layer 9 would remove 9 of its 10 tokens and can "
        "remove 4; its largest r is 1, 19 tokens in all; `infeasible: skip` leaves out what cannot run; "
        "`reference_patches: 196` scales the paper's r"
    )


def test_larger_images_than_the_papers_have_more_tokens_to_remove(spec):
    text = "study: x\ncases: [{strategy: upper, start_layer: 24, r: 300}]\n"
    text += "profiles: {large: {dataset: digits, image_size: 448}}"
    assert schedules(spec(text), "large")[0][-1] == 300


def test_reference_patches_are_the_papers(problems):
    ((key, sentence),) = problems("reference_patches: 64\n" + textwrap.dedent(SMALL))
    assert key == "reference_patches"
    assert sentence.startswith("must be 196, the patches of the paper's images, not 64; without it r and budgets are")


def test_an_equal_cost_needs_the_papers_images(problems):
    text = SMALL.replace(", r: 1", "") + "budget: {train_cost_ratio: 0.7}"
    assert problems(text) == [
        (
            "budget.train_cost_ratio",
            "is the cost of Vim-Ti on 196 patches: state the grid for these with reference_patches: 196",
        )
    ]


def test_combinations_that_cannot_run_are_one_sentence_for_each_profile(problems):
    found = problems(SPACE)
    assert [key for key, _ in found] == ["space", "space"]
    paper, laptop = (sentence for _, sentence in found)
    allowed = sum((26 - start) * r <= 196 for start in range(1, 25) for r in range(1, 16))
    assert paper.startswith("in profile paper (197 tokens), upper from layer 1, r 8: layer 24 would remove 8 of its")
    assert f"; {24 * 15 - allowed - 1} other cases cannot run for the same reason" in paper
    assert "`infeasible: skip` leaves out what cannot run" in paper
    assert "reference_patches" not in paper
    assert "`reference_patches: 196` scales the paper's r" in laptop


def test_combinations_off_a_budget_are_one_sentence(problems):
    text = SPACE.replace(", r: {from: 1, to: 15}", "") + "budget: {reduced_tokens: 20, tolerance: 0.02}"
    key, sentence = problems(text)[0]
    assert key == "budget.reduced_tokens"
    assert "off, and the tolerance is 2.0%" in sentence
    assert "other cases cannot run for the same reason" in sentence


def test_infeasible_combinations_are_skipped_on_demand(spec):
    text = SPACE.replace("profiles:", "infeasible: skip\nprofiles:")
    for profile, patches in (("paper", 196), ("laptop", 36)):
        plan = make_plan(spec(text), profile)
        allowed = [(start, r) for start in range(1, 25) for r in range(1, 16) if (26 - start) * r <= patches]
        assert [(case.start_layer, case.r) for case in plan.cases] == allowed


def test_listed_cases_are_skipped_too_and_baselines_are_not(spec, problems):
    text = SMALL.replace("6, r: 1", "6, r: 9") + "infeasible: skip"
    assert len(schedules(spec(text))) == 2
    ((key, sentence),) = problems(text.replace("{strategy: none}", "{strategy: all, r: 2}"))
    assert key == "baselines[0]"
    assert "skip" not in sentence


def test_a_grid_of_which_nothing_is_left_is_refused(problems):
    text = SMALL.replace("r: 1", "r: 30") + "infeasible: skip"
    ((key, sentence),) = problems(text)
    assert key == "cases"
    assert sentence.startswith("in profile laptop (37 tokens), none of its 2 cases has the tokens it would remove")
