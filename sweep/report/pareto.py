"""Which results no other result beats on every count, and how much of the plane they cover together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

REFERENCE_MARGIN = 1.1  # the reference cost, as a multiple of the dearest unfused row's, so that this row counts too


def non_dominated(values: np.ndarray, directions: Sequence[str]) -> np.ndarray:
    """Which rows are on the Pareto frontier.

    A row is dominated if another is at least as good in every column and better in one; equal rows stay together.
    A row that lacks a value (NaN) is not on the frontier and dominates nothing.

    Args:
        values: [n, k] numbers.
        directions: k times "max" or "min".

    Returns n bools.
    """
    costs = np.where([direction == "max" for direction in directions], -values, values)
    on_frontier = np.zeros(len(costs), dtype=bool)
    known = np.flatnonzero(~np.isnan(costs).any(axis=1))
    # What dominates a row comes before it in this order, and is on the frontier or dominated by one that is.
    for i in known[np.lexsort(costs[known].T[::-1])]:
        best = costs[on_frontier]
        on_frontier[i] = not ((best <= costs[i]).all(axis=1) & (best < costs[i]).any(axis=1)).any()
    return on_frontier


def hypervolume(points: np.ndarray) -> float:
    """Return the volume of the union of the boxes from the origin to each point, exactly.

    The union is cut into slabs along the first axis. A slab is as thick as two neighbouring points are apart there, and
    its cross-section is the union of the boxes of all points that reach it, in one dimension less.

    Args:
        points: [n, k] positive numbers, more is better, k >= 2.
    """
    points = points[np.argsort(-points[:, 0])]
    thickness = points[:, 0] - np.append(points[1:, 0], 0.0)
    if points.shape[1] == 2:
        return float(np.maximum.accumulate(points[:, 1]) @ thickness)
    volume = 0.0
    for i in np.flatnonzero(thickness):
        volume += thickness[i] * hypervolume(points[: i + 1, 1:])
    return float(volume)


def dominated_share(gain: np.ndarray, cost: np.ndarray, *, ideal_gain: float, reference_cost: float) -> float:
    """Return the share, from 0 to 1, of the box between the reference point and the ideal point that points dominate.

    The reference point is (gain 0, reference_cost), the ideal point (ideal_gain, cost 0).

    Args:
        gain: [n], more is better, 0 to ideal_gain.
        cost: [n], less is better, 0 or more; points beyond the reference cost add nothing.
    """
    points = np.column_stack([gain, reference_cost - cost])
    return hypervolume(points[(points > 0).all(axis=1)]) / (ideal_gain * reference_cost)


@dataclass(frozen=True, kw_only=True, eq=False)
class Frontier:
    """What to gain against what it costs: one panel of the trade-off."""

    gain: str  # column, more is better
    cost: str  # column, less is better
    mask: np.ndarray  # [n], which rows of the table are non-dominated in these two
    hypervolume: float | None  # None where nothing was measured, or the gain is no percentage
    reference_cost: float | None  # in the cost's unit; the reference gain is 0 %


def answers(table: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """[n, k] numbers of the rows of `tables.build_table`, to be compared with each other.

    All are missing (NaN) of a row that breaks a constraint of its search, or is not known to meet it: a bound says what
    is no answer, however good it is otherwise.
    """
    values = table[list(columns)].to_numpy(float, copy=True)
    values[~feasible(table)] = np.nan
    return values


def feasible(table: pd.DataFrame) -> np.ndarray:
    """Which rows are known to meet the constraints of their search; all, where it has none."""
    return table["feasible"].eq(True).fillna(False).to_numpy(bool) if "feasible" in table else np.full(len(table), True)


def frontiers(table: pd.DataFrame, objectives: dict[str, str]) -> list[Frontier]:
    """The first objective to maximise against each one to minimise, over the rows of `tables.build_table`."""
    gains = [column for column, direction in objectives.items() if direction == "max"]
    costs = [column for column, direction in objectives.items() if direction == "min"]
    return [_frontier(table, gains[0], cost) for cost in costs] if gains else []


def _frontier(table: pd.DataFrame, gain: str, cost: str) -> Frontier:
    values = answers(table, [gain, cost])
    mask = non_dominated(values, ["max", "min"])
    measured = table[[gain, cost]].dropna()
    if not len(measured) or not gain.endswith("_pct"):
        return Frontier(gain=gain, cost=cost, mask=mask, hypervolume=None, reference_cost=None)
    unfused = table.loc[table["strategy"] == "none", cost].max()
    reference = float(REFERENCE_MARGIN * (measured[cost].max() if np.isnan(unfused) else unfused))
    gains, costs = values[~np.isnan(values).any(axis=1)].T
    covered = dominated_share(gains, costs, ideal_gain=100, reference_cost=reference)
    return Frontier(gain=gain, cost=cost, mask=mask, hypervolume=covered, reference_cost=reference)
