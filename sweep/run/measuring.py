"""The measuring phase: what no measurement is stored of is measured before the first trial trains."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sweep.executors.base import Event, Executor, Finished, Lost, Measured, MeasureJob, Progress
from sweep.plan.identity import measure_id
from sweep.plan.model import Trial
from sweep.run.listeners.screen import Screen, schedules
from sweep.store.errors import as_user_error
from sweep.store.layout import StudyPaths
from sweep.store.lock import read_last_holder_token
from sweep.store.progress import PROGRESS_FILE, TrialProgress
from sweep.store.recovery import quarantine
from sweep.store.study import read_measurements
from sweep.text import clock

POLL_S = 0.5
LOSSES = 2  # after so many lost workers the trials go on without what is not measured


def measure_first(
    executor: Executor,
    trials: Sequence[Trial],
    folder: Path,
    screen: Screen,
    *,
    should_end: Callable[[], bool] = lambda: False,
    time_limit_s: float | None = None,
    is_device: Callable[[str], bool],
) -> None:
    """Measure the training step of each distinct configuration among `trials`, unless `folder` holds it already.

    One process measures them one after another, and nothing runs beside it. What cannot be measured is noted on the
    screen, and stops nothing: its trials are stored with the numbers of their training.

    Args:
        should_end: asked at every poll; once true, the rest is not measured.
        time_limit_s: for one measurement; a worker that takes longer is stopped, and counts as one that died.
        is_device: whether a stored measurement's device_name is a device of these trials, as far as one knows; those
            of other devices are taken again.

    Raises UserError where the folder cannot be written.
    """
    stored = _stored(folder, is_device)
    waiting: dict[str, Trial] = {}  # of each measurement the first trial
    for trial in trials:
        waiting.setdefault(measure_id(trial), trial)
    waiting = {name: trial for name, trial in waiting.items() if name not in stored}
    if not waiting:
        return
    phase = _Phase(executor, folder, screen, waiting, should_end, time_limit_s, is_device)
    try:
        with screen.measuring(len(waiting)):
            phase.run()
    finally:
        with contextlib.suppress(OSError):  # what is left says nothing to a later driver
            (StudyPaths(folder).measurements / PROGRESS_FILE).unlink(missing_ok=True)


def _stored(folder: Path, is_device: Callable[[str], bool]) -> set[str]:
    """The ids of the stored measurements that count. CorruptFile ones are set aside."""
    rows, damaged = read_measurements(folder, ("device_name",))
    quarantine(folder, damaged)
    return set(rows["measure_id"][rows["device_name"].map(is_device).astype(bool)])


class _Phase:
    """The measurements that are `waiting`, by their ids, and the process that takes them."""

    def __init__(
        self,
        executor: Executor,
        folder: Path,
        screen: Screen,
        waiting: dict[str, Trial],
        should_end: Callable[[], bool],
        time_limit_s: float | None,
        is_device: Callable[[str], bool],
    ) -> None:
        self._executor, self._folder, self._screen, self._waiting = executor, folder, screen, waiting
        self._should_end, self._time_limit_s, self._is_device = should_end, time_limit_s, is_device
        self._progress = TrialProgress.begin(1, len(waiting), read_last_holder_token(folder))

    def run(self) -> None:
        self._tell()
        losses = 0
        while self._waiting and losses < LOSSES:
            if (lost := self._take()) is None:
                return
            losses += not lost.machine_left  # else it is not the doing of what was measured
        if self._waiting:
            reason = _not_measured("the measuring worker died again")
            self._screen.note(f"{schedules(len(self._waiting))} more: {reason}")

    def _take(self) -> Lost | None:
        """Take what waits in one job. How its worker was lost, if it was; what it died of waits no longer."""
        lost = None
        for event in self._events(MeasureJob(trials=tuple(self._waiting.values()))):
            match event:
                case Lost(reason=reason):
                    lost = event
                    for name in _stored(self._folder, self._is_device) & self._waiting.keys():
                        del self._waiting[name]
                    if lost.machine_left:
                        self._screen.note(f"measuring: {reason}; it goes on elsewhere")
                    elif died_in := next(iter(self._waiting), None):
                        del self._waiting[died_in]
                        self._screen.note(f"{died_in}: {_not_measured(reason)}")
                case Progress(metrics=Measured(measure_id=ended, error=error)):
                    self._waiting.pop(ended, None)
                    if error:
                        self._screen.note(f"{ended}: {_not_measured(error)}")
            self._tell()
        return lost

    def _events(self, job: MeasureJob) -> Iterator[Event]:
        """Submits the job; what it reports, until it has finished or is lost, or the phase should end."""
        self._executor.submit(job, 1)
        since: float | None = None  # when the worker began what it is at
        overdue = None
        while True:
            for event in self._executor.poll(POLL_S):
                if isinstance(event, Finished):
                    return
                if isinstance(event, Lost):
                    yield replace(event, reason=overdue or event.reason)
                    return
                since = time.monotonic()
                yield event
            if self._should_end():
                self._executor.stop(job.trial_id)
                return
            limit = self._time_limit_s
            if limit is not None and since is not None and not overdue and time.monotonic() - since > limit:
                overdue = f"took longer than {clock(limit)}"
                self._executor.stop(job.trial_id)

    def _tell(self) -> None:
        self._progress = replace(self._progress, epoch=self._progress.epochs - len(self._waiting))
        with as_user_error(self._folder):
            self._progress.write(StudyPaths(self._folder).measurements)
        self._screen.measured(self._progress.epoch)


def _not_measured(reason: str) -> str:
    return f"not measured: {reason}; its trials keep the numbers of their training"
