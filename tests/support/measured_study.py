"""Studies whose training steps are measured, and the measurements that they store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from fake_training import fake_trial, plan_of, screen_of, with_batch

from sweep.executors.base import Executor
from sweep.plan.model import Trial
from sweep.run.measuring import MeasuringPhase
from sweep.store.lock import lock_study
from sweep.store.study import read_measurements, read_rows


def batches(folder: Path) -> list[int]:
    """Return the batch sizes of the stored measurements."""
    stored, damaged = read_measurements(folder)
    assert not damaged
    return sorted(stored["batch_size"])


def rows(folder: Path) -> pd.DataFrame:
    return read_rows(folder)[0].set_index("trial_id")


def batch_trials(*batches: int) -> list[Trial]:
    return [with_batch(fake_trial(seed), batch) for seed, batch in enumerate(batches)]


def measured_in(folder: Path, trials: list[Trial], executor: Executor, **options: Any) -> None:
    """Run the measuring phase alone, under the study's lock."""
    with lock_study(folder):
        options = {"is_device": bool} | options
        MeasuringPhase(executor=executor, folder=folder, listener=screen_of(plan_of(*trials)), **options).run(trials)
