"""ASHA's stopping rule, decided by each worker at its rungs from what the others left there.

A rung is a folder, rungs/<group>/<epoch>, with a file for each trial that got there: its value, and what was decided.
Nothing else is kept, so there is no state that a killed driver could lose. (Li et al. 2020, "A System for Massively
Parallel Hyperparameter Tuning"; the variant that stops trials, rather than pausing them until they are promoted.)
"""

from __future__ import annotations

import math
from pathlib import Path

from sweep.search_spec import EarlyStop
from sweep.store import write_atomically

GO_ON, STOP = "goes on", "stops"


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
    values: dict[str, float] = {}
    for file in rung.iterdir():
        if (found := _read(file)) is None:
            continue
        if file.name == trial_id:
            if found[0] == value:
                return found[1]
        else:
            values[file.name] = found[0]
    n, better = len(values) + 1, sum(other > value for other in values.values())
    go_on = not math.isnan(value) and (n < stop.reduction_factor or better * stop.reduction_factor < n)
    write_atomically(rung / trial_id, f"{value!r} {GO_ON if go_on else STOP}\n".encode())
    return go_on


def is_rung(epoch: int, stop: EarlyStop) -> bool:
    """Whether `epoch` is min_epochs times a power of reduction_factor."""
    rung = stop.min_epochs
    while rung < epoch:
        rung *= stop.reduction_factor
    return rung == epoch


def _read(file: Path) -> tuple[float, bool] | None:
    """A trial's value and whether it went on; None for what is no such file, or damaged: as if it had not come."""
    if file.name.startswith("."):  # being written
        return None
    try:
        value, decided = file.read_text(encoding="utf-8").strip().split(" ", 1)
        return (float(value), decided == GO_ON) if decided in (GO_ON, STOP) else None
    except (ValueError, FileNotFoundError):
        return None
