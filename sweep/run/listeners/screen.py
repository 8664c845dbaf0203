"""The screen of a run, with a forecast: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment, SegmentLines
from rich.table import Table
from rich.text import Text

from famba_core.training.metrics import EpochMetrics
from sweep.executors.base import TrainJob
from sweep.run.listeners.base import RunListener
from sweep.run.listeners.pace import Pace
from sweep.schema import Status
from sweep.terminal import GAP, Heading, fit_columns, wrap_words
from sweep.text import clock, plural

REFRESHES_PER_S = 4
LAST_ENDED = 5  # number of ended trials that stay on the screen
PLAIN_EVERY_S = 30.0  # least time between two lines of progress
STYLES = {"failed": "red", "completed": "dim"}
HASH_DIGITS = 10
BAR = 16  # characters
HEADINGS = (
    Heading("trial"),
    Heading("id", rank=6),  # the hash at the end of its name
    Heading("state", rank=4),
    Heading("epoch", numeric=True),
    Heading("", rank=5),  # the same as a bar
    Heading("loss", numeric=True, rank=3),
    Heading("top-1", numeric=True, rank=1),
    Heading("to go", numeric=True, rank=2),
)


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
        self._best: tuple[float, str] | None = None  # highest top-1 of this run, and its trial
        self._training_s = 0.0  # spent in training steps, summed over the trials
        self._drawn: tuple[int, list[int]] = (0, [])  # the terminal's width and those of the lines drawn last

    def run_began(self, trial_ids: Sequence[str], *, planned: int, capacity: int) -> None:
        self._pace = Pace(self._weights, waiting=trial_ids, capacity=capacity)
        self._planned, self._done = planned, planned - len(trial_ids)
        self._began, self._capacity = time.monotonic(), capacity
        concurrent = min(capacity, len(trial_ids))
        self.note(f"{len(trial_ids)} of {planned} trials to train, {concurrent} at a time")
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._draw, console=self._console, refresh_per_second=REFRESHES_PER_S, transient=True
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
        self._erase_reflowed()
        fitting = wrap_words(sentence, self._console.width) if self._console.is_terminal else sentence
        self._console.print(Text(fitting), soft_wrap=True)
        self._last_line = time.monotonic()

    def started(self, job: TrainJob) -> None:
        self._pace.start(job.job_id)
        self._running[job.job_id] = _Shown(job.job_id, "starting", time.monotonic())
        self._plain(f"{job.job_id}: started")

    def progress(self, trial_id: str, metrics: EpochMetrics) -> None:
        shown, now = self._running[trial_id], time.monotonic()
        self._pace.advance(trial_id, epoch=metrics.epoch, epochs=metrics.epochs, seconds=now - shown.since)
        shown.state, shown.since, shown.metrics = "training", now, metrics
        self._training_s += metrics.train_time_s
        if self._best is None or metrics.top1_pct > self._best[0]:
            self._best = metrics.top1_pct, trial_id
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

    def _standing(self) -> str:
        """Say what is best so far, how much of the time was training, and when the run is expected to end."""
        parts = []
        if self._best:
            parts.append(f"best top-1 {self._best[0]:.1f}%: {_split_id(self._best[1])[0]}")
            share = self._training_s / max(1e-9, (time.monotonic() - self._began) * max(1, self._capacity))
            parts.append(f"{min(1.0, share):.0%} of the time in training")
        if (eta := self._pace.study_eta_s()) is not None:
            now = dt.datetime.now().astimezone()
            end = now + dt.timedelta(seconds=eta)
            parts.append(f"ends about {end:{'%H:%M' if end.date() == now.date() else '%a %d %b %H:%M'}}")
        return "; ".join(parts)

    def _draw(self) -> SegmentLines:
        """Return the lines of the table, and keep their widths."""
        self._erase_reflowed()
        lines = self._console.render_lines(self._table(), pad=False)
        self._drawn = self._console.width, [Segment.get_line_length(line) for line in lines]
        return SegmentLines(lines, new_lines=True)

    def _erase_reflowed(self) -> None:
        """Erase the rows that lines drawn before have become longer by, in a terminal that was made narrower."""
        (before, lengths), width = self._drawn, self._console.width
        if self._live and 0 < width < before:
            extra = sum(max(0, math.ceil(length / width) - 1) for length in lengths)
            self._console.control(Control(*[(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)] * extra))
            self._drawn = width, []

    def _table(self) -> Group:
        # copied, because the display draws in another thread while the run changes them
        shown = [*self._ended, *self._running.values()]
        rows = [self._cells(each) for each in shown]
        columns = fit_columns(HEADINGS, rows, self._console.width)
        table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
        for i, characters in columns.items():
            table.add_column(HEADINGS[i].text, justify="right" if HEADINGS[i].numeric else "left", width=characters)
        for each, row in zip(shown, rows, strict=True):
            table.add_row(*(row[i] for i in columns), style=STYLES.get(each.state, ""))
        return Group(table, Text(self._total(), style="bold"), Text(self._standing()))

    def _cells(self, shown: _Shown) -> list[str]:
        name, metrics = _split_id(shown.trial_id), shown.metrics
        if metrics is None:
            return [*name, shown.state, "", "", "", "", ""]
        done = round(BAR * metrics.epoch / metrics.epochs)
        return [
            *name,
            shown.state,
            f"{metrics.epoch}/{metrics.epochs}",
            "━" * done + "·" * (BAR - done),
            f"{metrics.loss:.3f}",
            f"{metrics.top1_pct:.1f}%",
            clock(self._pace.trial_eta_s(shown.trial_id)) if shown.state == "training" else "",
        ]


def _split_id(trial_id: str) -> tuple[str, str]:
    """Return the readable part of a trial's id, and its hash."""
    name, _, code = trial_id.rpartition("-")
    return (name, code) if name and len(code) == HASH_DIGITS else (trial_id, "")
