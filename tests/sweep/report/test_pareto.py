"""The Pareto frontier against its definition, and hypervolumes against counted cells."""

import itertools
import random

import numpy as np
import pandas as pd
import pytest

from sweep.grid.objectives import OUTCOMES
from sweep.report.pareto import REFERENCE_MARGIN, dominated_share, frontiers, hypervolume, non_dominated


def naive_non_dominated(values, directions):
    """Apply the definition pair by pair, in Python numbers."""

    def beats(a, b):
        pairs = [(x, y) if direction == "max" else (-x, -y) for x, y, direction in zip(a, b, directions, strict=True)]
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)

    return [not any(beats(other, row) for other in values) for row in values]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [0, 1, 2, 40])
def test_non_dominated_matches_the_definition(n, k):
    rng = np.random.default_rng(100 * n + k)
    for directions in itertools.product(("max", "min"), repeat=k):
        values = rng.integers(0, 5, (n, k)).astype(float)  # few distinct numbers, so that there are ties
        assert non_dominated(values, directions).tolist() == naive_non_dominated(values.tolist(), directions)


def test_equal_rows_do_not_dominate_each_other():
    values = np.array([[90.0, 10.0], [90.0, 10.0], [90.0, 11.0]])
    assert non_dominated(values, ("max", "min")).tolist() == [True, True, False]


def test_a_row_with_a_missing_value_is_not_on_the_frontier_and_dominates_nothing():
    values = np.array([[99.0, np.nan], [np.nan, 1.0], [90.0, 10.0]])
    assert non_dominated(values, ("max", "min")).tolist() == [False, False, True]


def test_frontier_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    values = rng.random((50, 3))
    order = rng.permutation(50)
    directions = ("max", "min", "min")
    assert (non_dominated(values[order], directions) == non_dominated(values, directions)[order]).all()


def counted_share(gain, cost, ideal, reference):
    """Count the unit squares that some result dominates, as a share of the box; for whole numbers."""
    squares = [
        (x, y)
        for x in range(reference)
        for y in range(ideal)
        if any(c <= x and g >= y + 1 for g, c in zip(gain, cost, strict=True))
    ]
    return len(squares) / (ideal * reference)


@pytest.mark.parametrize("seed", range(20))
def test_dominated_share_matches_counted_squares(seed):
    rng = np.random.default_rng(seed)
    gain, cost = rng.integers(0, 11, 6).astype(float), rng.integers(0, 14, 6).astype(float)  # some beyond the reference
    measured = dominated_share(gain, cost, ideal_gain=10, reference_cost=12)
    assert measured == pytest.approx(counted_share(gain, cost, 10, 12))


def test_dominated_share_of_one_point_is_its_rectangle():
    share = dominated_share(np.array([80.0]), np.array([30.0]), ideal_gain=100, reference_cost=40)
    assert share == pytest.approx(0.8 * 0.25)


def test_dominated_points_add_nothing():
    one = dominated_share(np.array([80.0]), np.array([30.0]), ideal_gain=100, reference_cost=40)
    two = dominated_share(np.array([80.0, 79.0]), np.array([30.0, 31.0]), ideal_gain=100, reference_cost=40)
    assert two == one


def test_hypervolume_matches_counted_cells():
    rng = random.Random(0)
    points = [[rng.randint(1, 6) for _ in range(3)] for _ in range(8)]
    cells = itertools.product(range(6), repeat=3)
    inside = sum(any(all(c < p for c, p in zip(cell, point, strict=True)) for point in points) for cell in cells)
    assert hypervolume(np.array(points, float)) == inside
    assert hypervolume(np.empty((0, 3))) == 0


def frame(**columns):
    return pd.DataFrame({"strategy": ["none", "upper"], **columns})


OBJECTIVES = {"top1_best_pct": "max", "train_time_s": "min", "peak_memory_mib": "min"}


def test_each_cost_has_a_frontier_with_its_own_reference():
    table = frame(top1_best_pct=[80.0, 70.0], train_time_s=[100.0, 50.0], peak_memory_mib=[10.0, 20.0])
    time, memory = frontiers(table, OBJECTIVES)
    assert (time.gain, time.cost, time.mask.tolist()) == ("top1_best_pct", "train_time_s", [True, True])
    assert memory.mask.tolist() == [True, False]
    assert time.reference_cost == pytest.approx(REFERENCE_MARGIN * 100)
    assert memory.reference_cost == pytest.approx(REFERENCE_MARGIN * 10)
    assert memory.hypervolume == pytest.approx(0.8 * (1 - 1 / REFERENCE_MARGIN))


def test_without_an_unfused_row_the_largest_cost_gives_the_reference():
    table = frame(top1_best_pct=[np.nan, 70.0], train_time_s=[np.nan, 50.0], peak_memory_mib=[np.nan, 20.0])
    assert frontiers(table, OBJECTIVES)[0].reference_cost == pytest.approx(REFERENCE_MARGIN * 50)


@pytest.mark.parametrize("cost", [name for name in OUTCOMES if name != "top1_best_pct"])
def test_a_cost_that_is_0_without_fusion_gives_no_hypervolume(cost):
    table = frame(top1_best_pct=[50.0, 60.0]).assign(**{cost: [0.0, 3.0]})
    (panel,) = frontiers(table, {"top1_best_pct": "max", cost: "min"})
    assert (panel.hypervolume, panel.reference_cost, panel.mask.tolist()) == (None, 0.0, [True, True])


def test_frontiers_of_an_unmeasured_table_have_no_hypervolume():
    table = frame(top1_best_pct=[np.nan] * 2, train_time_s=[np.nan] * 2, peak_memory_mib=[np.nan] * 2)
    assert [(f.hypervolume, f.mask.any()) for f in frontiers(table, OBJECTIVES)] == [(None, False)] * 2


def test_objectives_without_a_trade_off_have_no_frontier():
    table = frame(top1_best_pct=[1.0, 2.0], train_time_s=[1.0, 2.0])
    assert frontiers(table, {"top1_best_pct": "max"}) == []
    assert frontiers(table, {"train_time_s": "min"}) == []
