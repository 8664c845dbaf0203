"""Rungs: the values that trials had reached after a number of epochs, and ASHA's rule of which trials continue.

    rungs/<group>/<epoch>/<trial_id>=<value>=<goes_on or stops>    an empty file for each trial
    rungs/<group>/<epoch>/folded                                   the names of many such files, one per line

The names hold everything, so no content can be torn. A trial's file takes precedence over its line. Workers apply the
rule; a killed driver loses nothing, because it keeps no state. (Li et al. 2020, "A System for Massively Parallel
Hyperparameter Tuning"; the variant that stops trials instead of pausing them until they are promoted.)
"""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import NamedTuple

from famba_core.files import sync_folder, write_atomically
from sweep.files.names import is_safe_name, list_names
from sweep.grid.search import EarlyStop
from sweep.store.layout import StudyPaths

GO_ON, STOP = "goes_on", "stops"
FOLDED = "folded"


class Arrival(NamedTuple):
    """What a trial had reached at a rung, and the decision on it."""

    trial_id: str
    value: float  # more is better; NaN is the worst
    goes_on: bool

    @property
    def name(self) -> str:
        return f"{self.trial_id}={self.value!r}={GO_ON if self.goes_on else STOP}"


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
    _store_arrival(rung, Arrival(trial_id, float(value), go_on), before)
    return go_on


def is_rung(epoch: int, stop: EarlyStop) -> bool:
    """True if `epoch` is min_epochs times a power of reduction_factor."""
    rung = stop.min_epochs
    while rung < epoch:
        rung *= stop.reduction_factor
    return rung == epoch


def read_rung(rung: Path) -> dict[str, Arrival]:
    """Return the arrivals at a rung by trial_id. Raises OSError if the folder does not exist."""
    names = list_names(rung)  # before the lines: a file that is folded concurrently is in both
    lines = (rung / FOLDED).read_text(encoding="utf-8", errors="replace").splitlines() if FOLDED in names else []
    return {arrival.trial_id: arrival for name in [*lines, *names] if (arrival := _parse_name(name))}


def fold_rungs(study: Path) -> None:
    """Turn the files of each rung into lines of one file. Loses nothing if killed. Raises OSErrors."""
    for rung in sorted(StudyPaths(study).rungs.glob("[!.]*/[!.]*/")):
        if files := [name for name in list_names(rung) if _parse_name(name)]:
            lines = sorted(f"{arrival.name}\n" for arrival in read_rung(rung).values())
            write_atomically(rung / FOLDED, "".join(lines).encode())
            for name in files:
                (rung / name).unlink(missing_ok=True)


def _store_arrival(rung: Path, arrival: Arrival, before: Arrival | None) -> None:
    """Store an arrival, which replaces the trial's earlier one. Raises OSError if it cannot be stored."""
    if before and (rung / before.name).exists():  # else it is a line
        os.replace(rung / before.name, rung / arrival.name)
    else:
        (rung / arrival.name).touch()
    sync_folder(rung)


def _parse_name(name: str) -> Arrival | None:
    """Return None if the name is not that of an arrival."""
    with contextlib.suppress(ValueError):
        trial_id, value, decision = name.split("=")
        if is_safe_name(trial_id) and decision in (GO_ON, STOP):
            return Arrival(trial_id, float(value), decision == GO_ON)
    return None
