"""Rungs: the values that trials had reached after a number of epochs, and whether they went on.

    rungs/<group>/<epoch>/<trial_id>=<value>=<goes_on or stops>    an empty file for each trial
    rungs/<group>/<epoch>/folded                                   the names of many such files, one per line

The names hold everything, so no content can be torn. A trial's file takes precedence over its line.
worker/early_stop.py decides which trials go on.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from famba_core.files import sync_folder, write_atomically
from sweep.files.names import is_safe_name
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


def read_rung(rung: Path) -> dict[str, Arrival]:
    """Return the arrivals at a rung by trial_id. Raises OSError if the folder does not exist."""
    names = os.listdir(rung)  # before the lines: a file that is folded concurrently is in both
    lines = (rung / FOLDED).read_text(encoding="utf-8", errors="replace").splitlines() if FOLDED in names else []
    return {arrival.trial_id: arrival for name in [*lines, *names] if (arrival := _parse_name(name))}


def store_arrival(rung: Path, arrival: Arrival, before: Arrival | None) -> None:
    """Store an arrival, which replaces the trial's earlier one. Raises OSError if it cannot be stored."""
    if before and (rung / before.name).exists():  # else it is a line
        os.replace(rung / before.name, rung / arrival.name)
    else:
        (rung / arrival.name).touch()
    sync_folder(rung)


def fold_rungs(study: Path) -> None:
    """Turn the files of each rung into lines of one file. Loses nothing if killed. Raises OSErrors."""
    for rung in sorted(StudyPaths(study).rungs.glob("*/*/")):
        if files := [name for name in os.listdir(rung) if _parse_name(name)]:
            lines = sorted(f"{arrival.name}\n" for arrival in read_rung(rung).values())
            write_atomically(rung / FOLDED, "".join(lines).encode())
            for name in files:
                (rung / name).unlink(missing_ok=True)


def _parse_name(name: str) -> Arrival | None:
    """Return None if the name is not that of an arrival."""
    with contextlib.suppress(ValueError):
        trial_id, value, decision = name.split("=")
        if is_safe_name(trial_id) and decision in (GO_ON, STOP):
            return Arrival(trial_id, float(value), decision == GO_ON)
    return None
