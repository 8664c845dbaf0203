"""ASHA's stopping rule, decided by each worker at its rungs from what the others left there.

A rung is a folder, rungs/<group>/<epoch>, with an empty file for each trial that got there, named
<trial_id>=<value>=<goes_on or stops>: one listing tells everything, and there is no content to be torn. Nothing else is
kept, so there is no state that a killed driver could lose. (Li et al. 2020, "A System for Massively Parallel
Hyperparameter Tuning"; the variant that stops trials, rather than pausing them until they are promoted.)
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from sweep.grid.search_spec import EarlyStop
from sweep.store.files import sync_folder

GO_ON, STOP = "goes_on", "stops"


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
    rung = folder / "rungs" / group / str(epoch)
    rung.mkdir(parents=True, exist_ok=True)
    before, values = None, []
    for name in os.listdir(rung):
        if (found := _parsed(name)) is None:
            continue
        if found[0] == trial_id:
            if found[1] == value:
                return found[2]
            before = name
        else:
            values.append(found[1])
    n, better = len(values) + 1, sum(other > value for other in values)
    go_on = not math.isnan(value) and (n < stop.reduction_factor or better * stop.reduction_factor < n)
    name = f"{trial_id}={value!r}={GO_ON if go_on else STOP}"
    if before is None:
        (rung / name).touch()
    else:
        os.replace(rung / before, rung / name)
    sync_folder(rung)
    return go_on


def is_rung(epoch: int, stop: EarlyStop) -> bool:
    """Whether `epoch` is min_epochs times a power of reduction_factor."""
    rung = stop.min_epochs
    while rung < epoch:
        rung *= stop.reduction_factor
    return rung == epoch


def _parsed(name: str) -> tuple[str, float, bool] | None:
    """A trial, its value and whether it went on; None for the name of something else."""
    try:
        trial_id, value, decided = name.split("=")
        return (trial_id, float(value), decided == GO_ON) if decided in (GO_ON, STOP) else None
    except ValueError:
        return None
