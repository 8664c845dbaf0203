"""The comparison of searches: its volumes and its space."""

from __future__ import annotations

import itertools
import random

import numpy as np

from sweep.simulated.comparison import dominated_volume, grid_plan


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
