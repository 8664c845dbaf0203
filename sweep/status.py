"""What a study has done, runs and lacks, read from its folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sweep.driver_lock import driver_of
from sweep.measure_phase import measuring_folder
from sweep.plan import plan_from_json
from sweep.progress import FILE, TrialProgress, checkpoint_folder
from sweep.store import outcomes, read_measurements, read_plan_json, read_rows

State = Literal["completed", "failed", "pruned", "running", "missing"]


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """One planned trial. A missing one that has progress was interrupted, and goes on from there."""

    trial_id: str
    state: State
    error: str | None = None  # why it failed
    progress: TrialProgress | None = None


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """A study as its folder shows it."""

    trials: tuple[TrialStatus, ...]  # in the plan's order
    damaged: tuple[Path, ...]  # parts that cannot be read: as if not stored
    driver: Mapping[str, Any] | None  # pid, host and started_at of the process that runs the study now
    measuring: TrialProgress | None = None  # how far it is, if it measures now; an epoch is a measurement


def study_status(folder: Path) -> StudyStatus:
    """Where every planned trial stands. Raises UserError if `folder` holds no plan."""
    plan = plan_from_json(read_plan_json(folder), folder)
    rows, damaged = read_rows(folder)
    stored, driver = outcomes(rows)[["status", "error"]].to_dict("index"), driver_of(folder)
    trials = tuple(_trial_status(folder, trial.trial_id, stored, driver is not None) for trial in plan.trials)
    damaged += read_measurements(folder)[1]
    measuring = _of_this_driver(folder, measuring_folder(folder)) if driver else None
    return StudyStatus(trials=trials, damaged=tuple(damaged), driver=driver, measuring=measuring)


def _trial_status(folder: Path, trial_id: str, stored: Mapping[Any, Any], driven: bool) -> TrialStatus:
    if trial_id in stored:
        row = stored[trial_id]
        return TrialStatus(
            trial_id=trial_id, state=row["status"], error=row["error"] if row["status"] == "failed" else None
        )
    checkpoint = checkpoint_folder(folder, trial_id)
    progress = TrialProgress.read(checkpoint)
    running = driven and _of_this_driver(folder, checkpoint) is not None
    return TrialStatus(trial_id=trial_id, state="running" if running else "missing", progress=progress)


def _of_this_driver(folder: Path, place: Path) -> TrialProgress | None:
    """The progress in `place`, if it was written since the driver took the lock; an older one was interrupted."""
    progress = TrialProgress.read(place)
    try:
        current = (place / FILE).stat().st_mtime >= (folder / "driver.lock").stat().st_mtime
    except FileNotFoundError:  # it ended meanwhile
        return None
    return progress if current else None


def describe(status: StudyStatus) -> str:
    """One line for the study, and one for each trial and part that there is more to say of."""
    counts = Counter(trial.state for trial in status.trials)
    total = ", ".join(
        f"{counts[state]} {state}" for state in ("completed", "failed", "pruned", "running", "missing") if counts[state]
    )
    lines = [f"{len(status.trials)} trials planned: {total}"]
    if status.driver:
        lines.append("run by process {pid} on {host} since {started_at}".format(**status.driver))
    if status.measuring:
        lines.append(f"measuring: {status.measuring.epoch} of {status.measuring.epochs} schedules done, then it trains")
    for trial in status.trials:
        if trial.error:
            lines.append(f"{trial.trial_id}: failed: {trial.error}")
        elif trial.progress:
            state = "running" if trial.state == "running" else "interrupted"
            lines.append(f"{trial.trial_id}: {state}, epoch {trial.progress.epoch}/{trial.progress.epochs} ended")
    lines += [f"{part}: cannot be read; the next run sets it aside" for part in status.damaged]
    return "\n".join(lines)
