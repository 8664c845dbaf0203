"""The measuring phase: benchmarks every distinct training step without a stored measurement before training starts."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sweep.errors import as_user_error
from sweep.executors.base import Event, Executor, Finished, Lost, Measured, MeasureJob, Progress
from sweep.plan.identity import measure_id
from sweep.plan.model import Trial
from sweep.run.listeners.base import RunListener
from sweep.store.layout import StudyPaths
from sweep.store.lock import read_last_holder_token
from sweep.store.progress import PROGRESS_FILE, TrialProgress
from sweep.store.recovery import quarantine
from sweep.store.study import read_measurements
from sweep.text import clock, plural

POLL_S = 0.5
MOST_LOSSES = 2  # after so many lost workers the trials go on without the missing measurements


@dataclass(kw_only=True)
class MeasuringPhase:
    """The measuring phase of a run.

    One process takes one measurement after another, and nothing else runs meanwhile. A measurement that fails is
    reported to the listener; its trials then keep the numbers of their training.
    """

    executor: Executor
    folder: Path
    listener: RunListener
    # True for a stored measurement's device_name if it may be the trials' device. Others are measured again.
    is_device: Callable[[str], bool]
    should_end: Callable[[], bool] = lambda: False  # called at every poll; once true, the rest is not measured
    time_limit_s: float = math.inf  # for one measurement; a worker that takes longer is stopped and counts as lost
    _pending: dict[str, Trial] = field(init=False)  # measure_id -> the first trial that needs it
    _progress: TrialProgress = field(init=False)

    def run(self, trials: Sequence[Trial]) -> None:
        """Measure the training step of each distinct configuration among `trials` without a stored measurement.

        Raises UserError if the folder cannot be written.
        """
        first: dict[str, Trial] = {}
        for trial in trials:
            first.setdefault(measure_id(trial), trial)
        stored = self._stored_ids()
        self._pending = {name: trial for name, trial in first.items() if name not in stored}
        if not self._pending:
            return
        self._progress = TrialProgress.begin(1, len(self._pending), read_last_holder_token(self.folder))
        self.listener.measuring_began(len(self._pending))
        try:
            self._measure_pending()
        finally:
            self.listener.measuring_ended()
            with contextlib.suppress(OSError):  # a later driver ignores a file that is left
                (StudyPaths(self.folder).measurements / PROGRESS_FILE).unlink(missing_ok=True)

    def _stored_ids(self) -> set[str]:
        """Return the ids of the stored measurements that count. Corrupt ones are moved to quarantine."""
        rows, damaged = read_measurements(self.folder, ("device_name",))
        quarantine(self.folder, damaged)
        return set(rows["measure_id"][rows["device_name"].map(self.is_device).astype(bool)])

    def _measure_pending(self) -> None:
        self._save_progress()
        losses = 0
        while self._pending and losses < MOST_LOSSES:
            if (lost := self._run_job()) is None:
                return
            if not lost.node_left:
                losses += 1
        if self._pending:
            reason = _not_measured("the measuring worker died again")
            self.listener.note(f"{plural(len(self._pending), 'schedule')} more: {reason}")

    def _run_job(self) -> Lost | None:
        """Take the pending measurements in one job. Return its loss, if it was lost."""
        for event in self._events(MeasureJob(trials=tuple(self._pending.values()))):
            match event:
                case Lost():
                    self._handle_loss(event)
                    self._save_progress()
                    return event
                case Progress(metrics=Measured(measure_id=name, error=error)):
                    self._pending.pop(name, None)
                    if error:
                        self.listener.note(f"{name}: {_not_measured(error)}")
            self._save_progress()
        return None

    def _handle_loss(self, lost: Lost) -> None:
        """Drop what the dead worker had stored, and the measurement that it died in."""
        for name in self._stored_ids() & self._pending.keys():
            del self._pending[name]
        if lost.node_left:
            self.listener.note(f"measuring: {lost.reason}; it continues on another node")
        elif died_in := next(iter(self._pending), None):
            del self._pending[died_in]
            self.listener.note(f"{died_in}: {_not_measured(lost.reason)}")

    def _events(self, job: MeasureJob) -> Iterator[Event]:
        """Submit the job and yield its events until it is lost or has finished, or the phase should end."""
        self.executor.submit(job)
        since: float | None = None  # when the current measurement began
        overdue = None
        while True:
            for event in self.executor.poll(POLL_S):
                if isinstance(event, Finished):
                    return
                if isinstance(event, Lost):
                    yield replace(event, reason=overdue or event.reason)
                    return
                since = time.monotonic()
                yield event
            if self.should_end():
                self.executor.stop(job.job_id)
                return
            if since is not None and not overdue and time.monotonic() - since > self.time_limit_s:
                overdue = f"took longer than {clock(self.time_limit_s)}"
                self.executor.stop(job.job_id)

    def _save_progress(self) -> None:
        self._progress = replace(self._progress, epoch=self._progress.epochs - len(self._pending))
        with as_user_error(self.folder):
            self._progress.write(StudyPaths(self.folder).measurements)
        self.listener.measured(self._progress.epoch)


def _not_measured(reason: str) -> str:
    return f"not measured: {reason}; its trials keep the numbers of their training"
