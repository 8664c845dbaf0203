"""The screen of a run, with a forecast: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from famba_core.training.metrics import EpochMetrics
from sweep.executors.base import TrainJob
from sweep.price.estimate import makespan
from sweep.run.listeners.base import RunListener
from sweep.schema import Status
from sweep.text import clock, plural

REFRESHES_PER_S = 4
LAST_ENDED = 5  # number of ended trials that stay on the screen
PLAIN_EVERY_S = 30.0  # least time between two lines of progress
STYLES = {"failed": "red", "completed": "dim"}
COLUMNS = {  # title -> is a number
    "trial": False, "state": False, "epoch": True, "": False, "loss": True, "top-1": True, "to go": True,
}  # fmt: skip


@dataclass
class _Shown:
    """A trial on the screen."""

    trial_id: str
    state: str
    since: float  # when its current epoch began, or when it started
    metrics: EpochMetrics | None = None


class Screen(RunListener):
    """A listener that shows the run.

    Args:
        weights: cost of each trial by trial_id, in any unit, such as its predicted hours.
    """

    def __init__(self, weights: Mapping[str, float], *, console: Console | None = None) -> None:
        self._weights = weights
        self._console = console or Console(highlight=False)
        self._running: dict[str, _Shown] = {}
        self._ended: deque[_Shown] = deque(maxlen=LAST_ENDED)
        self._phase: str | None = None  # what happens before the trials
        self._has_measured = False
        self._live: Live | None = None
        self._last_line = time.monotonic()

    def run_began(self, trial_ids: Sequence[str], *, planned: int, capacity: int) -> None:
        self._pace = Pace(self._weights, waiting=trial_ids, capacity=capacity)
        self._planned, self._done = planned, planned - len(trial_ids)
        self._began = time.monotonic()
        concurrent = min(capacity, len(trial_ids))
        self.note(f"{len(trial_ids)} of {planned} trials to train, {concurrent} at a time")
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._table, console=self._console, refresh_per_second=REFRESHES_PER_S, transient=True
            )
            self._live.start()

    def run_ended(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def measuring_began(self, total: int) -> None:
        self._to_measure, self._measuring_since = total, time.monotonic()
        if not self._has_measured:  # a search measures each batch of its trials, which is said once
            self.note(f"measuring {plural(total, 'schedule')} first, one at a time")
        self.measured(0)

    def measured(self, done: int) -> None:
        self._phase = f"measuring {min(done + 1, self._to_measure)} of {plural(self._to_measure, 'schedule')}"
        if time.monotonic() - self._last_line >= PLAIN_EVERY_S:
            self._plain(self._phase)

    def measuring_ended(self) -> None:
        self._phase = None
        if not self._has_measured:
            self._plain(f"measuring took {clock(time.monotonic() - self._measuring_since)}")
        self._has_measured = True

    def note(self, sentence: str) -> None:
        self._console.print(Text(sentence), soft_wrap=True)
        self._last_line = time.monotonic()

    def started(self, job: TrainJob) -> None:
        self._pace.start(job.job_id)
        self._running[job.job_id] = _Shown(job.job_id, "starting", time.monotonic())
        self._plain(f"{job.job_id}: started")

    def progress(self, trial_id: str, metrics: EpochMetrics) -> None:
        shown, now = self._running[trial_id], time.monotonic()
        self._pace.advance(trial_id, epoch=metrics.epoch, epochs=metrics.epochs, seconds=now - shown.since)
        shown.state, shown.since, shown.metrics = "training", now, metrics
        if now - self._last_line >= PLAIN_EVERY_S:
            self._plain(
                f"{trial_id}: epoch {metrics.epoch}/{metrics.epochs}, loss {metrics.loss:.3f}, "
                f"top-1 {metrics.top1_pct:.1f}%; {self._total()}"
            )

    def lost(self, trial_id: str, reason: str) -> None:
        del self._running[trial_id]
        self._pace.end(trial_id)
        self.note(f"{trial_id}: {reason}")

    def ended(self, trial_id: str, status: Status, error: str | None) -> None:
        shown = self._running.pop(trial_id)
        self._pace.end(trial_id)
        shown.state = status
        self._ended.append(shown)
        self._done += 1
        if error:
            self.note(f"{trial_id}: {status}: {error}")
        else:
            top1 = f", top-1 {shown.metrics.top1_pct:.1f}%" if shown.metrics else ""
            self._plain(f"{trial_id}: {status}{top1}; {self._total()}")

    def _plain(self, line: str) -> None:
        if not self._console.is_terminal:
            self.note(line)

    def _total(self) -> str:
        elapsed = clock(time.monotonic() - self._began)
        if self._phase:
            return f"{self._phase}, {elapsed} elapsed"
        return f"{self._done}/{self._planned} done, {elapsed} elapsed, {clock(self._pace.study_eta_s())} to go"

    def _table(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for title, is_number in COLUMNS.items():
            table.add_column(title, justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis")
        # copied, because the display draws in another thread while the run changes them
        for shown in [*self._ended, *self._running.values()]:
            table.add_row(*self._cells(shown), style=STYLES.get(shown.state, ""))
        return Group(table, Text(self._total(), style="bold"))

    def _cells(self, shown: _Shown) -> list[str | ProgressBar]:
        if (metrics := shown.metrics) is None:
            return [shown.trial_id, shown.state]
        return [
            shown.trial_id,
            shown.state,
            f"{metrics.epoch}/{metrics.epochs}",
            ProgressBar(total=metrics.epochs, completed=metrics.epoch, width=16),
            f"{metrics.loss:.3f}",
            f"{metrics.top1_pct:.1f}%",
            clock(self._pace.trial_eta_s(shown.trial_id)) if shown.state == "training" else "",
        ]


class Pace:
    """The pace of trials, in seconds per unit of work, from which it forecasts the time left.

    Args:
        weights: the work of each whole trial, in any unit.
    """

    def __init__(self, weights: Mapping[str, float], *, waiting: Sequence[str], capacity: int) -> None:
        # in order of start; a search may start other trials in their place
        self._waiting = {trial_id: weights[trial_id] for trial_id in waiting}
        self._running: dict[str, float] = {}  # work left
        self._begun: set[str] = set()
        self._capacity = capacity
        self._weights = weights
        self._seconds: dict[str, float] = {}
        self._work: dict[str, float] = {}

    def start(self, trial_id: str) -> None:
        """Count a trial as running, in place of a waiting one."""
        if trial_id in self._waiting:
            del self._waiting[trial_id]
        elif trial_id not in self._begun and self._waiting:
            self._waiting.popitem()
        self._begun.add(trial_id)
        self._running[trial_id] = self._weights[trial_id]

    def advance(self, trial_id: str, *, epoch: int, epochs: int, seconds: float) -> None:
        """Add an epoch that took `seconds` of wall time."""
        weight = self._weights[trial_id]
        self._seconds[trial_id] = self._seconds.get(trial_id, 0) + seconds
        self._work[trial_id] = self._work.get(trial_id, 0) + weight / epochs
        self._running[trial_id] = weight * (1 - epoch / epochs)

    def end(self, trial_id: str) -> None:
        del self._running[trial_id]

    def trial_eta_s(self, trial_id: str) -> float | None:
        """Return the seconds from the trial's last epoch to its end; None before its first epoch."""
        if trial_id not in self._work or trial_id not in self._running:  # it may end while the screen is drawn
            return None
        return self._running[trial_id] * self._seconds[trial_id] / self._work[trial_id]

    def study_eta_s(self) -> float | None:
        """Return the seconds until the last trial ends; None before the first epoch of any trial."""
        if not self._work:
            return None
        work = makespan([*self._running.values()], [*self._waiting.values()], self._capacity)
        return work * sum(self._seconds.values()) / sum(self._work.values())
