"""Pareto frontiers, and how much of the plane they dominate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sweep.report.tables import LABELS

REFERENCE_MARGIN = 1.1  # reference cost over the largest unfused cost, so that the unfused point counts too


def non_dominated(values: np.ndarray, directions: Sequence[str]) -> np.ndarray:
    """Return which rows are on the Pareto frontier, [n] bools.

    A row is dominated if another is at least as good in every column and better in one; equal rows do not dominate each
    other. A row with a missing value (NaN) is not on the frontier and dominates nothing.

    Args:
        values: [n, k] numbers.
        directions: k times "max" or "min".
    """
    costs = np.where([direction == "max" for direction in directions], -values, values)
    on_frontier = np.zeros(len(costs), dtype=bool)
    known = np.flatnonzero(~np.isnan(costs).any(axis=1))
    # In this order a row comes after all rows that dominate it, and one of these is on the frontier.
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
    """The trade-off between a gain and a cost: one panel of the figure."""

    gain: str  # column, more is better
    cost: str  # column, less is better
    mask: np.ndarray  # [n], which rows of the table are non-dominated in these two
    # Both are None if nothing was measured, or if the gain is not a percentage.
    hypervolume: float | None = None  # None, too, if the reference cost is 0: then there is no box to dominate
    reference_cost: float | None = None  # in the cost's unit; the reference gain is 0 %


def frontiers(table: pd.DataFrame, objectives: dict[str, str]) -> list[Frontier]:
    """Return the first objective to maximise against each objective to minimise, over the rows of `build_table`."""
    gains = [column for column, direction in objectives.items() if direction == "max"]
    costs = [column for column, direction in objectives.items() if direction == "min"]
    return [_frontier(table, gains[0], cost) for cost in costs] if gains else []


def _frontier(table: pd.DataFrame, gain: str, cost: str) -> Frontier:
    values = _feasible_values(table, [gain, cost])
    mask = non_dominated(values, ["max", "min"])
    measured = table[[gain, cost]].dropna()
    unfused = table.loc[table["strategy"] == "none", cost].max()
    reference = float(REFERENCE_MARGIN * (measured[cost].max() if np.isnan(unfused) else unfused))
    if measured.empty or not gain.endswith("_pct"):
        return Frontier(gain=gain, cost=cost, mask=mask)
    if reference == 0:
        return Frontier(gain=gain, cost=cost, mask=mask, reference_cost=0.0)
    gains, costs = values[~np.isnan(values).any(axis=1)].T
    share = dominated_share(gains, costs, ideal_gain=100, reference_cost=reference)
    return Frontier(gain=gain, cost=cost, mask=mask, hypervolume=share, reference_cost=reference)


def frontier_rows(table: pd.DataFrame, objectives: dict[str, str], trade_offs: Sequence[Frontier]) -> pd.DataFrame:
    """Return the configurations that are non-dominated in a trade-off or in all objectives at once, best first.

    Columns: configuration, the labels, the objectives, and a bool for each trade-off and for all objectives at once.
    """
    on_frontier = {f"non_dominated_{frontier.gain}_{frontier.cost}": frontier.mask for frontier in trade_offs}
    values = _feasible_values(table, list(objectives))
    on_frontier["non_dominated"] = non_dominated(values, list(objectives.values()))
    rows = table[["configuration", *LABELS, *objectives]].assign(**on_frontier)
    first, direction = next(iter(objectives.items()))
    return rows[rows[list(on_frontier)].any(axis=1)].sort_values(first, ascending=direction == "min")


def is_feasible(table: pd.DataFrame) -> np.ndarray:
    """Return which rows are known to meet the constraints of their search, [n] bools; all if it has none."""
    return table["feasible"].eq(True).fillna(False).to_numpy(bool) if "feasible" in table else np.full(len(table), True)


def _feasible_values(table: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """Return these columns as [n, k] numbers, with NaN in every row that is not known to meet the constraints."""
    values = table[list(columns)].to_numpy(float, copy=True)
    values[~is_feasible(table)] = np.nan
    return values
