"""The loop that runs an agenda: it fills the executor's places, and answers what goes wrong there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sweep.errors import UserError
from sweep.executors.base import Event, Executor, Finished, Lost, Measured, Progress, Started
from sweep.plan.identity import measure_id
from sweep.plan.model import Plan, Trial
from sweep.price.memory import predicted_peak_mib
from sweep.run.limits import HOUR_S, Limits
from sweep.run.listeners.screen import Screen
from sweep.run.measuring import measure_first
from sweep.run.packing import MOST_PER_GPU, packed, shares_devices
from sweep.run.queue import TrialQueue
from sweep.run.retries import RetryPolicy
from sweep.schema import Status
from sweep.store.study import read_measurement, read_result, write_result
from sweep.text import clock
from sweep.worker.rows import failed_row

POLL_S = 0.5
SMALLEST_LOAD = 1 / MOST_PER_GPU - 1e-3  # shares of a GPU are rounded down


@dataclass
class _Running:
    """An attempt that is submitted."""

    trial: Trial
    attempt: int
    since: float | None = None  # when its worker began; until then it waits for room
    epoch: int = 0  # the last one that ended under this driver
    epoch_ended: float = 0.0
    overdue: str | None = None  # why its worker is being stopped


class TrialLoop:
    """Runs what `agenda` gives until nothing is left, or until the run's limits or a preemption end it.

    Args:
        preempted_at: when this process was asked to end soon (time.monotonic()), if it was.
        is_device: whether a measurement's device_name is a device that trials may get here.
    """

    def __init__(
        self,
        plan: Plan,
        agenda: TrialQueue,
        executor: Executor,
        folder: Path,
        screen: Screen,
        preempted_at: Callable[[], float | None],
        is_device: Callable[[str], bool],
    ) -> None:
        self._plan, self._pool, self._agenda = plan, plan.pool, agenda
        self._executor, self._folder, self._screen = executor, folder, screen
        self._limits, self._is_device = Limits(plan.pool, preempted_at), is_device
        self._running: dict[str, _Running] = {}
        self._losses = RetryPolicy()
        self._capacity = executor.capacity
        self._gpu_s = 0.0  # of ended trials, and of measuring
        self._draining: str | None = None  # why nothing new starts

    def run(self) -> str | None:
        """Why it ended before everything was done, or None."""
        if self._plan.search is None:
            self._measure(self._agenda.waiting)
            self._drain()
        while True:
            if self._draining is None:
                self._fill()
            if not self._running and self._is_all_done():
                return None
            if self._draining and self._is_drained():
                return self._draining
            for event in self._executor.poll(POLL_S):
                self._handle(event)
            self._note_capacity()
            self._stop_overdue()
            self._drain()

    def _is_all_done(self) -> bool:
        if (item := self._agenda.next([])) is None:
            return True
        self._agenda.again(*item)
        return False

    def _fill(self) -> None:
        """Start trials while there is room. Where trials share a device, a search's are measured first, in rounds."""
        rounds = self._plan.search is not None and shares_devices(self._plan)
        waiting_for_room = [running for running in self._running.values() if running.since is None]
        if (
            (self._running and rounds)
            or len(waiting_for_room) >= max(1, self._executor.capacity)
            or any(self._losses.runs_alone(running.trial) for running in waiting_for_room)
        ):
            return
        batch = self._batch()
        if rounds and batch:
            self._measure([trial for trial, _ in batch])
            for item in reversed(batch):  # what it has shown may let fewer of them share a device
                self._agenda.again(*item)
            self._drain()
            if self._draining:
                return
            batch = self._batch()
        for trial, attempt in batch:
            self._running[trial.trial_id] = _Running(trial, attempt)
            self._executor.submit(trial, attempt)
            self._screen.started(trial.trial_id)

    def _batch(self) -> list[tuple[Trial, int]]:
        """What finds room beside what runs."""
        batch: list[tuple[Trial, int]] = []
        while item := self._next_that_fits(batch):
            batch.append(item)
        return batch

    def _next_that_fits(self, batch: list[tuple[Trial, int]]) -> tuple[Trial, int] | None:
        """Beside what runs and `batch`."""
        beside = [*self._trials(), *(trial for trial, _ in batch)]
        if any(map(self._losses.needs_whole_machine, beside)):
            return None
        room = self._executor.capacity - sum(map(self._load, beside))
        if room < SMALLEST_LOAD or len(beside) >= (self._pool.max_concurrent or math.inf):
            return None
        if (item := self._agenda.next(beside)) is None:
            return None
        trial = self._packed(item[0])
        # The next one waits for its room, and nothing overtakes it: something small would, for ever.
        if beside and (self._load(trial) > room + 1e-9 or self._losses.needs_whole_machine(trial)):
            self._agenda.again(*item)
            return None
        return trial, item[1]

    def _measure(self, trials: list[Trial]) -> None:
        """Where trials have a GPU each, every worker measures its own."""
        if not shares_devices(self._plan):
            return
        began, gpus = time.monotonic(), float(any(trial.gpus_per_trial for trial in trials))  # a whole one

        def gpu_s() -> float:
            return (time.monotonic() - began) * gpus

        limit_h = self._pool.trial_time_limit_h
        measure_first(
            self._executor,
            trials,
            self._folder,
            self._screen,
            should_end=lambda: self._reason_to_end(gpu_s()) is not None,
            time_limit_s=None if limit_h is None else limit_h * HOUR_S,
            is_device=self._is_device,
        )
        self._gpu_s += gpu_s()

    def _handle(self, event: Event) -> None:
        running = self._running.get(event.trial_id)
        if running is None:  # the end of what was measured
            return
        now = time.monotonic()
        match event:
            case Started():
                running.since = now
            case Progress(metrics=metrics):
                if not isinstance(metrics, Measured):
                    running.epoch, running.epoch_ended = metrics.epoch, now
                    self._screen.progress(event.trial_id, metrics)
                elif metrics.error:
                    self._screen.note(f"{metrics.measure_id}: not measured: {metrics.error}")
            case Finished(status=status, error=error):
                self._end(running, status, error)
            case Lost():
                self._answer_loss(running, event)

    def _answer_loss(self, running: _Running, event: Lost) -> None:
        trial, attempt = running.trial, running.attempt
        if event.folder_failed:
            raise UserError(
                f"{self._folder}: cannot be written: {event.reason}; make room or rights there: what has ended is "
                "stored, and the same command goes on"
            )
        if row := read_result(self._folder, trial.trial_id, attempt):  # the worker died after it had stored it
            self._end(running, row["status"], row["error"])
        elif running.overdue:
            self._fail(running, running.overdue)
        else:
            again, sentence = self._losses.answer(trial, running.epoch, event)
            if again is None:
                self._fail(running, sentence)
                return
            self._forget(trial.trial_id)
            self._screen.lost(trial.trial_id, sentence)
            self._agenda.again(again, attempt)

    def _fail(self, running: _Running, reason: str) -> None:
        """Store the failure of an attempt whose worker cannot."""
        write_result(self._folder, failed_row(running.trial, running.attempt, reason), ())
        self._end(running, "failed", reason)

    def _end(self, running: _Running, status: Status, error: str | None) -> None:
        trial_id = running.trial.trial_id
        self._forget(trial_id)
        self._agenda.ended(running.trial, running.attempt, status)
        self._screen.ended(trial_id, status, error if status == "failed" else None)

    def _forget(self, trial_id: str) -> None:
        self._gpu_s += _spent_s(self._running.pop(trial_id))

    def _note_capacity(self) -> None:
        """NodePool come and go."""
        before, self._capacity = self._capacity, self._executor.capacity
        if self._capacity != before:
            room = f"room for {self._capacity} at a time" if self._capacity else "no machine has room, the run waits"
            self._screen.note(f"{room} now (it was {before})")

    def _stop_overdue(self) -> None:
        limit = self._pool.trial_time_limit_h
        if limit is None:
            return
        for trial_id, running in self._running.items():
            if running.since and not running.overdue and time.monotonic() - running.since > limit * HOUR_S:
                running.overdue = f"took longer than its limit of {clock(limit * HOUR_S)} (trial_time_limit_h)"
                self._executor.stop(trial_id)

    def _reason_to_end(self, measuring_gpu_s: float = 0.0) -> str | None:
        running = sum(map(_spent_s, self._running.values()))
        return self._limits.reason_to_end(self._gpu_s + running + measuring_gpu_s)

    def _drain(self) -> None:
        """From the first reason to end early, nothing new starts."""
        if self._draining is None and (reason := self._reason_to_end()):
            self._draining = reason
            self._screen.note(f"{reason}; epochs that end within {self._pool.grace_s:g} s still count")

    def _is_drained(self) -> bool:
        """Every running trial has a checkpoint since, or the time for that is over."""
        begun = [running for running in self._running.values() if running.since is not None]
        return all(running.epoch_ended >= self._limits.since for running in begun) or self._limits.patience_is_over

    def _load(self, trial: Trial) -> float:
        """Of the executor's places, which are for jobs of the planned size."""
        planned = self._plan.trials[0].gpus_per_trial
        return trial.gpus_per_trial / planned if planned else 1.0

    def _packed(self, trial: Trial) -> Trial:
        pool = self._pool
        memory = 1024 * pool.gpu_memory_gib if pool.gpu_memory_gib else self._executor.gpu_memory_mib
        if pool.gpus_per_trial != "pack" or memory is None or self._losses.runs_alone(trial):
            return trial
        measured = read_measurement(self._folder, measure_id(trial))
        peak = measured["peak_memory_mib"] if measured else predicted_peak_mib(trial)
        return packed(trial, peak, memory, pool.memory_margin)

    def _trials(self) -> list[Trial]:
        return [running.trial for running in self._running.values()]


def _spent_s(running: _Running) -> float:
    """GPU-seconds of the attempt's worker."""
    return 0.0 if running.since is None else (time.monotonic() - running.since) * running.trial.gpus_per_trial
