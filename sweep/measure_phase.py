"""The measuring phase: what no measurement is stored of is measured before the first trial trains."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sweep.driver_lock import token_of
from sweep.executor import Event, Executor, Finished, Lost, Progress
from sweep.live import Screen, schedules
from sweep.measure import Measured, MeasureJob
from sweep.plan import TrialPlan, measure_id
from sweep.progress import FILE, TrialProgress
from sweep.store import quarantine, read_measurements

POLL_S = 0.5
LOSSES = 2  # after so many lost workers the trials go on without what is not measured


def measure_first(executor: Executor, trials: Sequence[TrialPlan], folder: Path, screen: Screen) -> None:
    """Measure the training step of each distinct configuration among `trials`, unless `folder` holds it already.

    One process measures them one after another, and nothing runs beside it. What cannot be measured is noted on the
    screen, and stops nothing: its trials are stored with the numbers of their training.
    """
    stored, damaged = read_measurements(folder)
    quarantine(folder, damaged)
    waiting = _without_measurement(trials, set(stored["measure_id"]))
    if not waiting:
        return
    progress = TrialProgress.begin(1, len(waiting), token_of(folder))
    progress.write(measuring_folder(folder))
    try:
        with screen.measuring(len(waiting)):
            _measure(executor, waiting, folder, screen, progress)
    finally:
        (measuring_folder(folder) / FILE).unlink(missing_ok=True)


def measuring_folder(folder: Path) -> Path:
    """Where the phase says how far it is, while it lasts; an epoch is a measurement there."""
    return folder / "measurements"


def _without_measurement(trials: Sequence[TrialPlan], known: Collection[str]) -> list[TrialPlan]:
    """The first trial of each measurement that is not `known`, in order."""
    first = {measure_id(trial): trial for trial in reversed(trials)}
    return [trial for trial in trials if measure_id(trial) not in known and first[measure_id(trial)] is trial]


def _measure(
    executor: Executor, waiting: list[TrialPlan], folder: Path, screen: Screen, progress: TrialProgress
) -> None:
    for losses_left in reversed(range(LOSSES)):
        lost = None
        for event in _events(executor, MeasureJob(trials=tuple(waiting))):
            match event:
                case Lost():
                    lost = event.reason
                    waiting = _without_measurement(waiting, set(read_measurements(folder)[0]["measure_id"]))
                    died_in, waiting = waiting[:1], waiting[1:]
                    for trial in died_in:
                        screen.note(f"{measure_id(trial)}: {_not_measured(lost)}")
                case Progress(metrics=Measured(measure_id=ended, error=error)):
                    waiting = [trial for trial in waiting if measure_id(trial) != ended]
                    if error:
                        screen.note(f"{ended}: {_not_measured(error)}")
            progress = replace(progress, epoch=progress.epochs - len(waiting))
            progress.write(measuring_folder(folder))
            screen.measured(progress.epoch)
        if lost is None or not waiting:
            return
        if not losses_left:
            screen.note(f"{schedules(len(waiting))} more: {_not_measured('the measuring worker died again')}")


def _events(executor: Executor, job: MeasureJob) -> Iterator[Event]:
    """Submits the job; what it reports, until it has finished or is lost."""
    executor.submit(job, 1)
    while True:
        for event in executor.poll(POLL_S):
            if isinstance(event, Finished):
                return
            yield event
            if isinstance(event, Lost):
                return


def _not_measured(reason: str) -> str:
    return f"not measured: {reason}; its trials keep the numbers of their training"
