"""Budgets and scaling, against exact arithmetic and a simulation that removes tokens one layer at a time."""

import math
import re
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from famba_core.config import ConfigError, FusionConfig, ModelConfig, TokenGrid
from famba_core.cost.data_sheets import known_limits
from famba_core.cost.roofline import least_times
from famba_core.cost.work import StepSettings, step_cost
from famba_core.fusion.schedule import fusing_layers, spread
from sweep.grid.budget import (
    PAPER_GRID,
    Budget,
    OffBudget,
    apply_budget,
    case_label,
    find_schedule_on,
    schedule_on,
    share_at,
    train_cost_ratio,
)

fusing = st.one_of(
    st.just(FusionConfig(strategy="all")),
    st.just(FusionConfig(strategy="interleaved")),
    st.integers(1, 24).map(lambda layer: FusionConfig(strategy="upper", start_layer=layer)),
    st.integers(1, 24).map(lambda layer: FusionConfig(strategy="lower", stop_layer=layer)),
)


def upper(start_layer, r=None):
    return FusionConfig(strategy="upper", start_layer=start_layer, r=r)


def first_overdrawn(schedule, num_tokens):
    """(layer, tokens there) of the first layer asked for more than half of the tokens that may fuse."""
    for layer, r in enumerate(schedule, start=1):
        if 2 * r > num_tokens - 1:
            return layer, num_tokens
        num_tokens -= r
    return None


def grid_of(num_patches):
    return TokenGrid(layers=24, tokens=num_patches + 1)


def schedule_for(labels, budget=None, grid=PAPER_GRID):
    """The schedule of a grid that is stated for 196 patches."""
    return schedule_on(apply_budget(labels, budget, 196), grid).schedule


def r_for(labels, budget):
    return apply_budget(labels, budget).labels.r


def refusal(labels, budget=None, num_patches=None):
    """The one sentence with which a case is refused."""
    if num_patches is not None:
        schedule_for(labels, budget)  # on the paper's images it fits
    with pytest.raises(ConfigError) as error:
        schedule_for(labels, budget, PAPER_GRID if num_patches is None else grid_of(num_patches))
    (problem,) = error.value.problems
    return problem.sentence


@given(total=st.integers(0, 400), labels=fusing)
def test_spread_is_exact_and_even(total, labels):
    layers = fusing_layers(labels, 24)
    schedule = spread(total, layers, 24)
    removed = [schedule[layer - 1] for layer in layers]
    assert sum(schedule) == sum(removed) == total
    assert max(removed) - min(removed) <= 1
    # even along the way too: after i layers never a whole token away from the straight line
    for i in range(1, len(layers) + 1):
        assert 0 <= Fraction(i * total, len(layers)) - sum(removed[:i]) < 1


@given(total=st.integers(1, 196), labels=fusing)
def test_an_exact_budget_is_met_to_the_token_or_refused_for_a_layer_that_lacks_them(total, labels):
    asked = spread(total, fusing_layers(labels, 24), 24)
    overdrawn = first_overdrawn(asked, 197)
    if overdrawn is None:
        budget = Budget(reduced_tokens=total, rule="exact")
        assert schedule_for(labels, budget) == asked
        assert r_for(labels, budget) is None
    else:
        layer, tokens = overdrawn
        sentence = refusal(labels, Budget(reduced_tokens=total, rule="exact"))
        assert f"layer {layer} would remove {asked[layer - 1]} of its {tokens} tokens" in sentence
        largest = int(re.search(r"largest total is (\d+)", sentence)[1])
        assert largest == max(
            smaller
            for smaller in range(total)
            if first_overdrawn(spread(smaller, fusing_layers(labels, 24), 24), 197) is None
        )


@given(total=st.integers(1, 196), labels=fusing, percent=st.integers(0, 99))
def test_a_nearest_budget_takes_the_best_single_r_within_the_tolerance(total, labels, percent):
    n = len(fusing_layers(labels, 24))
    off = min(abs(n * r - total) for r in range(200))
    assume(Fraction(off, total) != Fraction(percent, 100))  # there floats may differ from exact arithmetic
    budget = Budget(reduced_tokens=total, tolerance=percent / 100)
    if Fraction(off, total) > Fraction(percent, 100):
        assert "the total nearest to" in refusal(labels, budget)
        return
    r = (2 * total + n) // (2 * n)
    if first_overdrawn(spread(n * r, fusing_layers(labels, 24), 24), 197) is not None:
        assert "its largest r is" in refusal(labels, budget)
        return
    schedule = schedule_for(labels, budget)
    assert abs(sum(schedule) - total) == off
    assert set(schedule) <= {0, r_for(labels, budget)}


@given(start_layer=st.integers(1, 24), r=st.integers(0, 98), side=st.integers(1, 16))
def test_scaling_rounds_the_share_of_tokens_and_keeps_the_labels(start_layer, r, side):
    n, num_patches = 25 - start_layer, side * side
    assume(r * (n + 1) <= 196)
    total = math.floor(Fraction(n * r * num_patches, 196) + Fraction(1, 2))
    asked = spread(total, range(start_layer, 25), 24)
    if first_overdrawn(asked, num_patches + 1) is None:
        assert schedule_for(upper(start_layer, r), None, grid_of(num_patches)) == asked
        assert apply_budget(upper(start_layer, r), None).labels == upper(start_layer, r)
    else:
        assert "its largest r is" in refusal(upper(start_layer, r), None, num_patches)


@given(start_layer=st.integers(1, 24), r=st.integers(0, 120))
def test_at_196_patches_a_case_is_itself_or_its_largest_r_is_named(start_layer, r):
    n = 25 - start_layer
    # the last of n layers has 197 - (n - 1) r tokens and can remove half of all but one: r (n + 1) <= 196
    if r * (n + 1) <= 196:
        assert schedule_for(upper(start_layer, r)) == (0,) * (start_layer - 1) + (r,) * n
    else:
        assert f"its largest r is {196 // (n + 1)}, {n * (196 // (n + 1))} tokens" in refusal(upper(start_layer, r))


def test_the_refusal_names_case_layer_tokens_and_largest_r():
    assert refusal(upper(6, 10)) == (
        "upper from layer 6, r 10: layer 24 would remove 10 of its 17 tokens and can remove 8; "
        "its largest r is 9, 171 tokens in all"
    )


def test_a_case_that_fits_the_papers_images_can_be_too_much_for_smaller_ones():
    # 180 * 16 / 196 = 14.7 -> 15 over 12 layers, the last of which would take 2 of the 4 tokens left
    assert refusal(FusionConfig(strategy="interleaved", r=15), None, 16) == (
        "interleaved, r 15: layer 24 would remove 2 of its 4 tokens and can remove 1; "
        "its largest r is 14, 168 tokens in all"
    )


def test_an_image_of_one_patch_has_nothing_to_fuse():
    # 19 r / 196 rounds to no token up to r = 5
    assert refusal(upper(6, 9), None, 1) == (
        "upper from layer 6, r 9: layer 24 would remove 1 of its 2 tokens and can remove 0; "
        "its largest r is 5, 95 tokens in all"
    )


def test_an_absurd_r_is_refused_at_once():
    assert "its largest r is 9" in refusal(upper(6, 10**12))
    assert "its largest total is" in refusal(upper(6), Budget(reduced_tokens=10**12, rule="exact"))


def test_nearest_budget_of_168_as_in_the_paper():
    assert {start: r_for(upper(start), Budget(reduced_tokens=168)) for start in range(6, 18)} == {
        6: 9, 7: 9, 8: 10, 9: 11, 10: 11, 11: 12, 12: 13, 13: 14, 14: 15, 15: 17, 16: 19, 17: 21,
    }  # fmt: skip


def test_a_budget_off_the_tolerance_names_the_nearest_total():
    sentence = refusal(upper(6), Budget(reduced_tokens=168, tolerance=0.01))
    assert sentence.startswith("upper from layer 6: with one r for its 19 layers the total nearest to 168 is 171 (r 9)")
    assert "1.8% off" in sentence
    assert "tolerance is 1.0%" in sentence


def test_no_fusion_has_no_budget():
    none = FusionConfig(strategy="none")
    assert schedule_for(none, Budget(reduced_tokens=168)) == (0,) * 24
    assert r_for(none, Budget(reduced_tokens=168)) is None


def test_a_budget_of_nothing_is_refused_with_both_problems():
    with pytest.raises(ConfigError) as error:
        Budget(reduced_tokens=0, tolerance=1.5)
    assert [problem.key for problem in error.value.problems] == ["reduced_tokens", "tolerance"]


@given(start_layer=st.integers(1, 24), r=st.integers(0, 98), side=st.integers(1, 16))
def test_what_can_be_left_out_is_what_would_be_refused(start_layer, r, side):
    assume(r * (26 - start_layer) <= 196)
    request, grid = apply_budget(upper(start_layer, r), None, 196), grid_of(side * side)
    found = find_schedule_on(request, grid)
    if found is None:
        assert "layer 24 would remove" in refusal(upper(start_layer, r), None, side * side)
    else:
        assert found == schedule_on(request, grid)


def test_the_share_of_an_exact_budget_is_one_of_whole_tokens():
    assert share_at(Budget(reduced_tokens=168, rule="exact"), 196) == (168, 168)
    share, removed = share_at(Budget(reduced_tokens=168, rule="exact"), 36)
    assert (share, removed) == (pytest.approx(168 * 36 / 196), 31)


def serial_s(schedule):
    """Seconds of a step at an A100's limits, from the cost model as a whole."""
    limits = known_limits("A100", "float32")
    return least_times(step_cost(ModelConfig(), schedule, StepSettings(batch=128)).work, limits).serial


@pytest.mark.parametrize("schedule", [(0,) * 24, (7,) * 24, (0,) * 5 + (9,) * 19, (0, 14) * 12, (50,) + (0,) * 23])
def test_the_cost_ratio_is_that_of_the_whole_models_step(schedule):
    assert train_cost_ratio(schedule) == pytest.approx(serial_s(schedule) / serial_s((0,) * 24), rel=1e-12)


@given(labels=fusing, percent=st.integers(30, 95))
def test_an_exact_cost_is_met_as_nearly_as_any_total_can(labels, percent):
    goal, layers = percent / 100, fusing_layers(labels, 24)
    feasible = [total for total in range(197) if first_overdrawn(spread(total, layers, 24), 197) is None]
    nearest = min(abs(train_cost_ratio(spread(total, layers, 24)) / goal - 1) for total in feasible)
    assume(abs(nearest - 0.02) > 1e-9)
    budget = Budget(train_cost_ratio=goal, rule="exact", tolerance=0.02)
    if nearest > 0.02:
        assert f"the cost nearest to {goal:g} that its {len(layers)} layers allow is" in refusal(labels, budget)
        with pytest.raises(OffBudget):
            apply_budget(labels, budget)
        return
    schedule = schedule_for(labels, budget)
    assert r_for(labels, budget) is None
    assert schedule == spread(sum(schedule), layers, 24)
    assert abs(train_cost_ratio(schedule) / goal - 1) == pytest.approx(nearest)


def test_one_r_for_a_cost_of_seven_tenths():
    budget = Budget(train_cost_ratio=0.7, tolerance=0.05)
    found = {start: schedule_for(upper(start), budget) for start in range(1, 10)}
    for start, schedule in found.items():
        r = r_for(upper(start), budget)
        assert schedule == (0,) * (start - 1) + (r,) * (25 - start)
        others = [train_cost_ratio((0,) * (start - 1) + (other,) * (25 - start)) for other in (r - 1, r + 1)]
        assert abs(train_cost_ratio(schedule) - 0.7) <= min(abs(other - 0.7) for other in others)
    # the later fusion starts, the more tokens must go for the same cost
    totals = [sum(schedule) for schedule in found.values()]
    assert totals[0] < totals[4] < totals[8]
    assert "off, and the tolerance is 5.0%" in refusal(upper(24), budget)  # one layer cannot save so much


def test_on_smaller_images_an_equal_cost_is_an_equal_share_of_tokens():
    budget = Budget(train_cost_ratio=0.7, rule="exact", tolerance=0.02)
    schedule = schedule_for(upper(6), budget)
    total = sum(schedule)
    assert train_cost_ratio(schedule) == pytest.approx(0.7, rel=0.02)
    small = schedule_for(upper(6), budget, grid_of(36))
    assert small == spread(math.floor(Fraction(total * 36, 196) + Fraction(1, 2)), range(6, 25), 24)
    # the same share of tokens costs about the same share of a step's time there too, on the same device
    model = ModelConfig(image_size=96)
    limits = known_limits("A100", "float32")
    fused, unfused = (
        least_times(step_cost(model, schedule, StepSettings(batch=128)).work, limits).serial
        for schedule in (small, (0,) * 24)
    )
    assert fused / unfused == pytest.approx(0.7, abs=0.05)


def test_a_budget_is_one_of_tokens_or_cost():
    for wrong, fields in (
        ({}, ["reduced_tokens"]),
        ({"reduced_tokens": 168, "train_cost_ratio": 0.7}, ["train_cost_ratio"]),
        ({"train_cost_ratio": 1.0}, ["train_cost_ratio"]),
        ({"train_cost_ratio": 0.0, "tolerance": 1.0}, ["train_cost_ratio", "tolerance"]),
    ):
        with pytest.raises(ConfigError) as error:
            Budget(**wrong)
        assert [problem.key for problem in error.value.problems] == fields


def test_labels_say_what_is_unusual():
    assert case_label(FusionConfig(strategy="none")) == "none"
    assert case_label(FusionConfig(strategy="lower", stop_layer=19, r=9)) == "lower to layer 19, r 9"
    assert case_label(FusionConfig(strategy="all", r=7, order="raster", weighting="size")) == "all, r 7, raster, size"
