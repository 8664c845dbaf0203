"""Rungs: what trials had reached after as many epochs, and whether they went on (worker/early_stop.py decides).

    rungs/<group>/<epoch>/<trial_id>=<value>=<goes_on or stops>    an empty file for each trial
    rungs/<group>/<epoch>/folded                                   the names of many, a line each

One listing tells everything, and there is no content to be torn. A trial's file wins over its line.
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
    """A trial at a rung."""

    trial_id: str
    value: float  # more is better; NaN is the worst
    goes_on: bool

    @property
    def name(self) -> str:
        return f"{self.trial_id}={self.value!r}={GO_ON if self.goes_on else STOP}"


def read_rung(rung: Path) -> dict[str, Arrival]:
    """Who has arrived, by trial_id. Raises OSError where there is no such folder."""
    names = os.listdir(rung)  # before the lines: what is folded meanwhile is in both
    lines = (rung / FOLDED).read_text(encoding="utf-8", errors="replace").splitlines() if FOLDED in names else []
    return {arrival.trial_id: arrival for name in [*lines, *names] if (arrival := _parse_name(name))}


def store_arrival(rung: Path, arrival: Arrival, before: Arrival | None) -> None:
    """Store an arrival, in place of the trial's one `before`. Raises OSError if it cannot be stored."""
    if before and (rung / before.name).exists():  # else it is a line
        os.replace(rung / before.name, rung / arrival.name)
    else:
        (rung / arrival.name).touch()
    sync_folder(rung)


def fold_rungs(study: Path) -> None:
    """Make the files of each rung lines of one. Killed at any point it loses nothing. Raises OSErrors as they come."""
    for rung in sorted(StudyPaths(study).rungs.glob("*/*/")):
        if files := [name for name in os.listdir(rung) if _parse_name(name)]:
            lines = sorted(f"{arrival.name}\n" for arrival in read_rung(rung).values())
            write_atomically(rung / FOLDED, "".join(lines).encode())
            for name in files:
                (rung / name).unlink(missing_ok=True)


def _parse_name(name: str) -> Arrival | None:
    """None for the name of something else."""
    with contextlib.suppress(ValueError):
        trial_id, value, decided = name.split("=")
        if is_safe_name(trial_id) and decided in (GO_ON, STOP):
            return Arrival(trial_id, float(value), decided == GO_ON)
    return None
