"""ASHA's stopping rule, decided by each worker at its rungs from what the others left there (store/rungs.py).

Nothing else is kept, so there is no state that a killed driver could lose. (Li et al. 2020, "A System for Massively
Parallel Hyperparameter Tuning"; the variant that stops trials, rather than pausing them until they are promoted.)
"""

from __future__ import annotations

import math
from pathlib import Path

from sweep.grid.search import EarlyStop
from sweep.store.layout import StudyPaths
from sweep.store.rungs import Arrival, read_rung, store_arrival


def goes_on(folder: Path, group: str, trial_id: str, epoch: int, value: float, stop: EarlyStop) -> bool:
    """Whether a trial goes on after `epoch`; at a rung, only within the best 1 / reduction_factor of its group so far.

    The first ones at a rung, fewer than reduction_factor, all go on. A trial that comes again with the same value,
    after a resume, is told the same again and counts once. NaN is the worst value, and stops.

    Args:
        folder: the study's.
        group: trials that compare with each other; names a folder.
        value: more is better.

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
    """Whether `epoch` is min_epochs times a power of reduction_factor."""
    rung = stop.min_epochs
    while rung < epoch:
        rung *= stop.reduction_factor
    return rung == epoch
