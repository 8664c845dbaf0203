"""The screen of a run: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweep.run.listeners.eta import Pace
from sweep.schema import Status
from sweep.text import clock

if TYPE_CHECKING:
    from famba_core.training.trainer import EpochMetrics

REFRESHES_PER_S = 4
LAST_ENDED = 5  # ended trials that stay on the screen
PLAIN_EVERY_S = 30.0  # at most one line of progress in this time


@dataclass
class _Trial:
    """A trial on the screen."""

    trial_id: str
    state: str
    since: float  # when its current epoch, or its start, began
    metrics: EpochMetrics | None = None


class Screen:
    """Shows a run. `weights` is what each trial costs, in any unit: its tokens per image, for instance."""

    def __init__(self, weights: Mapping[str, float], *, console: Console | None = None) -> None:
        self._weights = weights
        self._console = console or Console(highlight=False)
        self._running: dict[str, _Trial] = {}
        self._ended: deque[_Trial] = deque(maxlen=LAST_ENDED)
        self._phase: str | None = None  # what is going on before the trials
        self._last_line = time.monotonic()

    @contextmanager
    def showing(self, todo: list[str], *, planned: int, capacity: int) -> Iterator[None]:
        """The block in which the trials `todo` of `planned`, or as many others, run, `capacity` at a time."""
        self._pace = Pace(self._weights, waiting=todo, capacity=capacity)
        self._planned, self._done = planned, planned - len(todo)
        self._began = time.monotonic()
        self.note(f"{len(todo)} of {planned} trials to train, {min(capacity, len(todo))} at a time")
        if not self._console.is_terminal:
            yield
            return
        with Live(
            get_renderable=self._table, console=self._console, refresh_per_second=REFRESHES_PER_S, transient=True
        ):
            yield

    @contextmanager
    def measuring(self, total: int) -> Iterator[None]:
        """The block, within that of `showing`, in which `total` measurements are taken before any trial trains."""
        self._to_measure, began = total, time.monotonic()
        self.note(f"measuring {schedules(total)} first, one at a time")
        self.measured(0)
        try:
            yield
        finally:
            self._phase = None
        self._plain(f"measuring has taken {clock(time.monotonic() - began)}")

    def measured(self, done: int) -> None:
        """So many of the measurements are behind."""
        self._phase = f"measuring {min(done + 1, self._to_measure)} of {schedules(self._to_measure)}"
        if time.monotonic() - self._last_line >= PLAIN_EVERY_S:
            self._plain(self._phase)

    def note(self, sentence: str) -> None:
        """A line that stays."""
        self._console.print(Text(sentence), soft_wrap=True)
        self._last_line = time.monotonic()

    def started(self, trial_id: str) -> None:
        self._pace.start(trial_id)
        self._running[trial_id] = _Trial(trial_id, "starting", time.monotonic())
        self._plain(f"{trial_id}: started")

    def progress(self, trial_id: str, metrics: EpochMetrics) -> None:
        trial, now = self._running[trial_id], time.monotonic()
        self._pace.advance(trial_id, epoch=metrics.epoch, epochs=metrics.epochs, seconds=now - trial.since)
        trial.state, trial.since, trial.metrics = "training", now, metrics
        if now - self._last_line >= PLAIN_EVERY_S:
            self._plain(
                f"{trial_id}: epoch {metrics.epoch}/{metrics.epochs}, loss {metrics.loss:.3f}, "
                f"top-1 {metrics.top1_pct:.1f}%; {self._total()}"
            )

    def lost(self, trial_id: str, sentence: str) -> None:
        """The trial's worker is gone; the trial is not done with."""
        del self._running[trial_id]
        self._pace.end(trial_id)
        self.note(f"{trial_id}: {sentence}")

    def ended(self, trial_id: str, status: Status, error: str | None) -> None:
        trial = self._running.pop(trial_id)
        self._pace.end(trial_id)
        trial.state = status
        self._ended.append(trial)
        self._done += 1
        if error:
            self.note(f"{trial_id}: {status}: {error}")
        else:
            top1 = f", top-1 {trial.metrics.top1_pct:.1f}%" if trial.metrics else ""
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
        for title in ("trial", "state", "epoch", "", "loss", "top-1", "to go"):
            table.add_column(
                title,
                justify="right" if title in ("epoch", "loss", "top-1", "to go") else "left",
                no_wrap=True,
                overflow="ellipsis",
            )
        # The live display draws in a thread of its own, while the runner changes these.
        for trial in [*self._ended, *self._running.values()]:
            style = {"failed": "red", "completed": "dim"}.get(trial.state, "")
            eta = clock(self._pace.trial_eta_s(trial.trial_id)) if trial.state == "training" else ""
            if metrics := trial.metrics:
                bar = ProgressBar(total=metrics.epochs, completed=metrics.epoch, width=16)
                table.add_row(
                    trial.trial_id,
                    trial.state,
                    f"{metrics.epoch}/{metrics.epochs}",
                    bar,
                    f"{metrics.loss:.3f}",
                    f"{metrics.top1_pct:.1f}%",
                    eta,
                    style=style,
                )
            else:
                table.add_row(trial.trial_id, trial.state, style=style)
        return Group(table, Text(self._total(), style="bold"))


def schedules(number: int) -> str:
    """So many schedules, in words."""
    return f"{number} schedule{'' if number == 1 else 's'}"
