"""Prices: ratios against the cost model, hours against the published time, and the table that `plan` shows."""

import dataclasses

import pytest

from famba_core.cost.work import cost
from sweep.grid.spec import load_spec
from sweep.plan.build import make_plan
from sweep.price.device import PoolDevice
from sweep.price.estimate import device_hours, price_plan
from sweep.price.forecast import forecast
from sweep.price.memory import predicted_peak_mib
from sweep.price.shopping_list import compact_schedule, list_prices
from sweep.price.text import headline, list_trials, price_cells, price_lines, stored_line
from sweep.price.training_time import Calibration

GRID = """
study: x
reference_patches: 196
baselines: [{strategy: none}]
cases:
  - {strategy: upper, start_layer: 6, r: 9}
  - {strategy: upper, start_layer: 1, r: 7}
  - {strategy: all, r: 7}
seeds: [0]
profiles:
  tiny: {dataset: digits, epochs: 12}
  half: {dataset: digits, epochs: 12, train_images: 100}
  two: {dataset: digits, epochs: 12, backbone: [vim_tiny, vim_small]}
"""
DIGITS = 1437  # training images
STEPS = 12 * (DIGITS // 128)  # in the epochs of a grid's trial
TEST_DIGITS = 360
A100 = PoolDevice(gpu=True, name=None, memory_gib=None, count=None)
THREAD = PoolDevice(gpu=False, name="AMD EPYC (1 thread)", memory_gib=None, count=2)
NO_ROWS = Calibration()
SEARCH = """
study: x
reference_patches: 196
search: {kind: optuna, trials: 6}
baselines: [{strategy: none}]
space: {strategy: [upper, all], start_layer: {from: 1, to: 24}, r: {from: 1, to: 15}}
profiles: {tiny: {dataset: digits, epochs: 12, backbone: vim_nano, image_size: 12, patch_size: 2}}
"""


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "grid.yaml"

    def load_and_plan(profile, text=GRID, **flags):
        path.write_text(text)
        return make_plan(load_spec(path), profile, flags=flags)

    return load_and_plan


def hours_of(price):
    return sum(trial.train_hours for trial in price.trials.values())


def lines_of(made, price):
    return list(price_lines(made, price, made.trials))


def cut_of(made, price):
    run = forecast(made, price, made.trials)
    return run, run.cut(time_limit_h=made.pool.time_limit_h, gpu_hours=made.pool.gpu_hours)


def test_ratios_are_to_the_same_backbone_without_fusion(plan):
    made = plan("two")
    priced = price_plan(made, A100, NO_ROWS)
    for trial in made.trials:
        unfused = cost(trial.model, (0,) * 24)
        fused = cost(trial.model, trial.fusion.schedule)
        found = priced.trials[trial.trial_id]
        assert found.flops_ratio == fused.flops_per_image / unfused.flops_per_image
        assert found.memory_gib == predicted_peak_mib(trial) / 1024
    in_grid_order = [priced.trials[case.trial_id] for case in made.cases if "from layer 1," not in case.label]
    ratios = [trial.flops_ratio for trial in in_grid_order]
    assert ratios[0] == ratios[3] == 1
    assert ratios[1:3] == [pytest.approx(0.64, abs=0.02), pytest.approx(0.56, abs=0.02)]
    assert [trial.tokens_per_image for trial in in_grid_order] == [4728, 3018, 2628] * 2


def test_the_papers_run_takes_the_papers_hours_on_an_a100(plan):
    unfused = plan("tiny").trials[0]
    hours = price_plan(plan("tiny"), A100, NO_ROWS).trials[unfused.trial_id].train_hours
    # Vim-Ti's 16,382 s were 300 epochs of 50,000 images with 100 classes; the head is all that differs here
    steps, published = 12 * (DIGITS // 128), 300 * (50_000 // 128)
    assert hours == pytest.approx(16382 / 3600 * steps / published, rel=1e-3)


def test_hours_are_proportional_to_the_training_images(plan):
    whole, part = (hours_of(price_plan(plan(name), THREAD, NO_ROWS)) for name in ("tiny", "half"))
    # one step of 100 images instead of 11 of 128; the cost of a step that does not depend on the batch is small
    assert part == pytest.approx(whole * 100 / (11 * 128), rel=0.05)
    assert part > whole * 100 / (11 * 128)
    assert whole > 10 * hours_of(price_plan(plan("tiny"), A100, NO_ROWS))


def test_hours_depend_on_the_gpu_and_the_trials_share_of_it(plan):
    made, shared = plan("tiny"), plan("tiny", gpus_per_trial=0.25)
    h200 = PoolDevice(gpu=True, name="NVIDIA H200", memory_gib=None, count=None)
    fast, slow = price_plan(made, h200, NO_ROWS), price_plan(made, A100, NO_ROWS)
    assert hours_of(fast) < 0.5 * hours_of(slow)
    quarter = price_plan(shared, A100, NO_ROWS)
    whole = price_plan(plan("tiny", gpus_per_trial=1.0), A100, NO_ROWS)
    assert hours_of(quarter) == hours_of(whole)
    start_h = 5 / 3600
    for trial, other in zip(quarter.trials.values(), whole.trials.values(), strict=True):
        assert trial.hours - start_h == pytest.approx(4 * (other.hours - start_h))


def test_trial_hours_include_evaluation_and_worker_start(plan):
    for trial in price_plan(plan("tiny"), THREAD, NO_ROWS).trials.values():
        # a forward pass of each test image is a third of a training step's, once for each kind of weights
        # and two more training steps, which count the memory
        passes = 1 + 2 * TEST_DIGITS / (3 * DIGITS) + 2 / STEPS
        assert trial.hours == pytest.approx(trial.train_hours * passes + 5 / 3600)
        assert trial.device_hours == trial.hours  # of one thread


def test_stored_results_correct_the_price_and_set_its_range(plan):
    made = plan("tiny")
    before = price_plan(made, THREAD, NO_ROWS)
    after = price_plan(made, THREAD, Calibration(factor=3.0, low=2.5, high=4.0, rows=12))
    assert hours_of(after) == pytest.approx(3 * hours_of(before))
    total = device_hours(made, after, made.trials)
    assert total.expected == sum(trial.device_hours for trial in after.trials.values()) > hours_of(after)
    assert (total.low, total.high) == (pytest.approx(total.expected * 2.5 / 3), pytest.approx(total.expected * 4 / 3))
    assert device_hours(made, after, made.trials[:1]).expected == after.trials[made.trials[0].trial_id].device_hours


def test_a_search_costs_its_baselines_and_the_mean_of_its_candidates(plan):
    made = plan("tiny", SEARCH)
    priced = price_plan(made, THREAD, NO_ROWS)
    each = [priced.trials[trial.trial_id].device_hours for trial in made.candidates]
    base = priced.trials[made.trials[0].trial_id].device_hours
    assert len(each) == len(made.trials) - 1 > 100
    total = device_hours(made, priced, made.trials[:7])
    assert total.expected == pytest.approx(base + 6 * sum(each) / len(each))
    assert total.low == pytest.approx(0.5 * (base + 6 * min(each)))
    assert total.high == pytest.approx(2.0 * (base + 6 * max(each)))
    assert device_hours(made, priced, made.trials[:3]).expected == pytest.approx(base + 2 * sum(each) / len(each))


def test_wall_time_is_that_of_the_busiest_slot(plan):
    made = plan("tiny")
    priced = price_plan(made, THREAD, NO_ROWS)
    none, upper, everywhere = (priced.trials[trial.trial_id].hours for trial in made.trials)

    def wall_hours(most):
        device = dataclasses.replace(THREAD, count=most)
        return forecast(made, price_plan(made, device, NO_ROWS), made.trials).wall_hours

    measuring = sum(trial.measuring_hours for trial in priced.trials.values())
    assert wall_hours(1) == pytest.approx(measuring + none + upper + everywhere)
    # the third trial starts where the second, the shorter of the first two, has ended
    assert wall_hours(2) == pytest.approx(measuring + max(none, upper + everywhere))
    assert wall_hours(50) == pytest.approx(measuring + none)


def test_seeds_share_a_measurement_and_a_whole_gpu_measures_in_its_trial(plan):
    made = plan("tiny", GRID.replace("seeds: [0]", "seeds: [0, 1]"), max_concurrent=1)
    priced = price_plan(made, dataclasses.replace(THREAD, count=1), NO_ROWS)
    measuring = sum(trial.measuring_hours for trial in priced.of(made.trials[:3]))
    each = sum(trial.hours for trial in priced.trials.values())
    assert forecast(made, priced, made.trials).wall_hours == pytest.approx(measuring + each)
    whole = plan("tiny", gpus_per_trial=1.0)
    assert {trial.measuring_hours for trial in price_plan(whole, A100, NO_ROWS).trials.values()} == {0.0}


def test_a_batch_of_all_images_takes_longer_to_measure_than_to_train(plan):
    """Two epochs are two steps; eight more measure the step, and two count the trial's memory."""
    made = plan("tiny", GRID.replace("epochs: 12", "epochs: 2, batch_size: 5000, ema: false"))
    (none, *_) = made.trials
    priced = price_plan(made, dataclasses.replace(THREAD, count=1), NO_ROWS)
    step_h = priced.trials[none.trial_id].train_hours / 2
    assert step_h > 1 / 3600
    evaluating = 2 * TEST_DIGITS / (3 * DIGITS)
    expected = (1 + 8 * 3600 * step_h) + (5 + (2 + evaluating + 2) * 3600 * step_h)  # seconds
    assert forecast(made, priced, [none]).wall_hours == pytest.approx(expected / 3600)


def test_price_lines_name_the_range_and_the_wall_time(plan):
    made = plan("tiny", max_concurrent=4)
    lines = lines_of(made, price_plan(made, THREAD, Calibration(factor=1, low=0.9, high=1.2, rows=7)))
    assert len(lines) == 2
    assert "hours of one CPU thread (range from 7 stored rows of this device)" in lines[0]
    assert "on this machine, 2 at a time" in lines[1]
    nowhere = PoolDevice(gpu=True, name="H100", memory_gib=None, count=None)
    lines = lines_of(made, price_plan(made, nowhere, NO_ROWS))
    assert "of one H100 (no stored row of this device yet: a factor of 2 either way)" in lines[0]
    assert "where enough devices are free, 4 at a time" in lines[1]


def test_a_gpu_without_a_data_sheet_is_said_to_be_priced_as_an_a100(plan):
    made = plan("tiny")

    def lines(name, calibration=NO_ROWS):
        device = PoolDevice(gpu=True, name=name, memory_gib=None, count=None)
        return "\n".join(lines_of(made, price_plan(made, device, calibration)))

    assert "of one A100" in lines("RTX4080")
    assert "priced as an A100, because no data sheet of a GPU named RTX4080 is known (did you mean RTX-4090?)" in (
        lines("RTX4080")
    )
    assert "priced as an A100, because the GPU is not known; --accelerator-type names it" in lines(None)
    t4 = lines("T4")
    assert "of one T4" in t4 and "priced as" not in t4  # noqa: PT018
    hours = [
        hours_of(price_plan(made, PoolDevice(gpu=True, name=name, memory_gib=None, count=None), NO_ROWS))
        for name in ("T4", "A100", "H100", "H200")
    ]
    assert hours == sorted(hours, reverse=True)
    assert hours[0] > 2 * hours[1] > 4 * hours[2]
    stored = lines("RTX4080", Calibration(factor=1.0, low=0.9, high=1.1, rows=5))  # its own times are known
    assert "of one RTX4080" in stored and "priced as" not in stored  # noqa: PT018


def test_limits_below_the_price_give_warnings(plan):
    made = plan("tiny", time_limit_h=0.01, trial_time_limit_h=0.001)
    priced = price_plan(made, THREAD, NO_ROWS)
    _, _, fits, warning = lines_of(made, priced)
    assert fits.startswith("0 of 3 missing trials fit in the limit of 0.01 hours; the same command")
    assert warning.startswith("warning: the longest trial takes")
    made = plan("tiny", gpus_per_trial=1.0, gpu_hours=1e-6)
    *_, fits = lines_of(made, price_plan(made, A100, NO_ROWS))
    assert fits.startswith("0 of 3 missing trials fit in the limit of 1e-06 GPU-hours; the same command")
    made = plan("tiny", time_limit_h=1e5, trial_time_limit_h=1e5)
    assert len(lines_of(made, price_plan(made, THREAD, NO_ROWS))) == 2


def test_a_search_lists_its_first_candidates(plan):
    made = plan("tiny", SEARCH)
    assert list_trials(made, None) == list(made.trials[:21])
    assert list_trials(made, 30) == list(made.trials[:31])
    said = headline(made, None, left_out=9)
    assert f"a search (tpe) tries 6 of {len(made.trials) - 1} candidates (9 combinations that cannot run" in said
    assert "baselines: 1; the first 20 candidates are listed" in said


def test_each_listed_trial_has_its_cases_price_and_place(plan):
    made = plan("tiny")
    priced = price_plan(made, A100, NO_ROWS)
    run, _ = cut_of(made, priced)
    listed = list(list_prices(made, priced, made.trials, {}, run, None))
    assert [trial.trial_id for trial in listed] == [trial.trial_id for trial in made.trials]
    assert [trial.cases for trial in listed] == ["none", "upper from layer 6, r 9", "upper from layer 1, r 7; all, r 7"]
    assert [trial.schedule for trial in listed] == ["-", "6..24: 9 each", "1..24: 7 each"]
    assert [trial.reduced_tokens for trial in listed] == [0, 171, 168]
    assert [trial.tokens_per_image for trial in listed] == [4728, 3018, 2628]
    assert [trial.place for trial in listed] == [1, 2, 3]
    assert listed[-1].total_hours == pytest.approx(sum(trial.device_hours for trial in listed))
    each = priced.of(made.trials)
    assert listed[-1].ends == pytest.approx(sum(trial.measuring_hours + trial.hours for trial in each))
    assert all(trial.fits and trial.status is None for trial in listed)


def test_stored_trials_are_listed_and_cost_nothing(plan):
    made = plan("tiny", GRID.replace("seeds: [0]", "seeds: [0, 1]"))
    priced = price_plan(made, THREAD, NO_ROWS)
    first, *rest = made.trials
    statuses = {first.trial_id: "completed", rest[0].trial_id: "failed"}
    run = forecast(made, priced, rest[1:])
    listed = list(list_prices(made, priced, made.trials, statuses, run, None))
    assert [trial.place for trial in listed] == [None, None, 1, 2, 3, 4]
    assert [cells[8] for cells in price_cells(made, listed)][:2] == ["stored", "failed"]
    assert listed[2].cases.endswith(", seed 0") and listed[3].cases == "none, seed 1"  # noqa: PT018
    assert stored_line(made, None, statuses, rest[1:]) == (
        "stored: 1 completed, 1 failed (run --retry-failed trains them again); missing: 4, priced below"
    )
    assert stored_line(made, None, {}, made.trials) is None
    assert device_hours(made, priced, rest[1:]).expected == sum(t.device_hours for t in priced.of(rest[1:]))
    assert list(price_lines(made, priced, [])) == ["nothing to train: every trial has a stored result"]


def test_a_budget_cuts_the_list_in_running_order(plan):
    def cells(**limits):
        made = plan("tiny", gpus_per_trial=1.0, max_concurrent=1, **limits)
        priced = price_plan(made, A100, NO_ROWS)
        run, cut = cut_of(made, priced)
        return [row[2] for row in price_cells(made, list(list_prices(made, priced, made.trials, {}, run, cut)))], priced

    first, second, third = (trial.hours for trial in cells()[1].trials.values())
    labels = ["none", "upper from layer 6, r 9", "upper from layer 1, r 7; all, r 7"]
    assert cells()[0] == labels == cells(gpu_hours=first + second + third + 1e-6)[0]
    budget = first + 1.5 * second
    assert cells(gpu_hours=budget)[0] == [*labels[:1], f"-- the limit of {budget:g} GPU-hours --", *labels[1:]] or (
        cells(gpu_hours=budget)[0] == [*labels[:2], f"-- the limit of {budget:g} GPU-hours --", labels[2]]
    )
    assert cells(time_limit_h=first * 1.01)[0] == [labels[0], f"-- the limit of {first * 1.01:g} hours --", *labels[1:]]


def test_three_trials_at_0_3_share_a_gpu_and_lose_nothing(plan):
    made, whole = plan("tiny", gpus_per_trial=0.3), plan("tiny", gpus_per_trial=1.0)
    shared, alone = price_plan(made, A100, NO_ROWS), price_plan(whole, A100, NO_ROWS)
    run = forecast(made, shared, made.trials)
    assert run.concurrent == 3
    assert "on one GPU, 3 at a time, after 0:" in lines_of(made, shared)[-1]
    assert run.spent(run.measuring / 2) == pytest.approx(run.measuring / 2)  # measuring has a whole GPU
    for trial, other in zip(shared.trials.values(), alone.trials.values(), strict=True):
        start = 5 / 3600
        assert trial.hours - start == pytest.approx(3 * (other.hours - start))
        assert trial.device_hours == pytest.approx(trial.hours / 3)
    two = dataclasses.replace(A100, count=2)
    assert forecast(made, price_plan(made, two, NO_ROWS), made.trials).concurrent == 6


def test_packed_trials_are_priced_as_many_as_memory_holds(plan):
    made = plan("tiny", gpus_per_trial="pack")
    large, unknown = (dataclasses.replace(A100, memory_gib=gib, count=1) for gib in (80.0, None))
    assert forecast(made, price_plan(made, large, NO_ROWS), made.trials).concurrent == 8
    assert forecast(made, price_plan(made, unknown, NO_ROWS), made.trials).concurrent == 1


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ((0, 0, 0, 0), "-"),
        ((0, 9, 9, 9), "2..4: 9 each"),
        ((0, 5, 0, 5, 0, 5), "2,4..6: 5 each"),
        ((2, 3, 3), "1..3: 2 3 3"),
        ((0, 0, 7), "3: 7 each"),
        ((1, 0, 2, 1), "1,3,4: 1 2 1"),
    ],
)
def test_compact_schedules(schedule, words):
    assert compact_schedule(schedule) == words
