"""ASHA's stopping rule. A worker applies it at its rungs to the values that other trials stored there.

A killed driver loses nothing, because it keeps no state. (Li et al. 2020, "A System for Massively Parallel
Hyperparameter Tuning"; the variant that stops trials instead of pausing them until they are promoted.)
"""

from __future__ import annotations

import math
from pathlib import Path

from sweep.grid.search import EarlyStop
from sweep.store.layout import StudyPaths
from sweep.store.rungs import Arrival, read_rung, store_arrival


def continues(folder: Path, group: str, trial_id: str, epoch: int, value: float, stop: EarlyStop) -> bool:
    """True if a trial continues after `epoch`. At a rung, only the best 1 / reduction_factor of its group so far do.

    The first trials at a rung all continue while they are fewer than reduction_factor. A resumed trial that arrives
    again with the same value gets the same answer and counts once. NaN is the worst value and stops the trial.

    Args:
        folder: the study's folder.
        group: name of the trials that are compared with each other; names a folder.
        value: higher is better.

    Raises OSError if the value cannot be stored.
    """
    if not is_rung(epoch, stop):
        return True
    rung = StudyPaths(folder).rung(group, epoch)
    rung.mkdir(parents=True, exist_ok=True)
    arrived = read_rung(rung)
    before = arrived.pop(trial_id, None)
    if before and before.value == value:
        return before.goes_on
    n, better = len(arrived) + 1, sum(other.value > value for other in arrived.values())
    go_on = not math.isnan(value) and (n < stop.reduction_factor or better * stop.reduction_factor < n)
    store_arrival(rung, Arrival(trial_id, float(value), go_on), before)
    return go_on


def is_rung(epoch: int, stop: EarlyStop) -> bool:
    """True if `epoch` is min_epochs times a power of reduction_factor."""
    rung = stop.min_epochs
    while rung < epoch:
        rung *= stop.reduction_factor
    return rung == epoch
