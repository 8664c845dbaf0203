"""Finds stored isolated measurements of the training steps of a plan's trials."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from sweep.errors import UserError
from sweep.plan.identity import measure_id
from sweep.plan.model import Trial
from sweep.price.device import PoolDevice
from sweep.store.study import read_measurements

COLUMNS = ("measure_id", "device_name", "step_time_ms", "steps_per_epoch", "peak_memory_mib", "finished_at")


class MeasuredStep(NamedTuple):
    """What an isolated measurement says of a trial."""

    trial: Trial
    device_seconds: float  # of all its training steps
    peak_mib: float


def find_measured(
    studies: Iterable[Path], device: PoolDevice, trials: Sequence[Trial], *, newest: int
) -> list[MeasuredStep]:
    """Return the newest measurement on such a device for each of the trials that has one in any of the studies.

    Args:
        newest: read at most this many files of each study, the last written.
    """
    frames = [rows for folder in studies if len(rows := _read(folder, device, newest))]
    if not frames:
        return []
    rows = pd.concat(frames).sort_values("finished_at")
    stored = {row["measure_id"]: row for row in rows.to_dict("records")}
    found = []
    for trial in trials:
        if row := stored.get(measure_id(trial)):
            seconds = trial.train.epochs * row["steps_per_epoch"] * row["step_time_ms"] / 1000
            threads = 1 if device.gpu else trial.cpus_per_trial  # a GPU is measured whole
            found.append(MeasuredStep(trial, seconds * threads, float(row["peak_memory_mib"])))
    return found


def _read(folder: Path, device: PoolDevice, newest: int) -> pd.DataFrame:
    try:
        rows, _ = read_measurements(folder, COLUMNS, newest)
    except (UserError, OSError):  # another study's damage must not stop this one
        return pd.DataFrame()
    return rows[rows["device_name"].map(device.is_named).astype(bool)]
