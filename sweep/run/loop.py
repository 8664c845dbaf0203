"""The loop of a run: submits trials while slots are free, and handles events, lost workers and limits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sweep.errors import UserError
from sweep.executors.base import Event, Executor, Finished, Lost, Measured, Progress, Started, TrainJob
from sweep.plan.identity import measure_id
from sweep.plan.model import Plan, Trial
from sweep.price.device import trials_per_gpu
from sweep.price.memory import MOST_PER_GPU, predicted_peak_mib
from sweep.run.limits import HOUR_S, Limits
from sweep.run.listeners.base import RunListener
from sweep.run.measuring import MeasuringPhase
from sweep.run.packing import pack, shares_devices
from sweep.run.queue import TrialQueue
from sweep.run.retries import RetryPolicy
from sweep.schema import Status
from sweep.store.study import read_measurement, read_result, write_result
from sweep.text import clock
from sweep.worker.rows import failed_row

POLL_S = 0.5
SMALLEST_SLOT = 1 / MOST_PER_GPU - 1e-3  # shares of a GPU are rounded down


@dataclass
class _Running:
    """A submitted job."""

    job: TrainJob
    since: float | None = None  # when its worker started; until then it waits for a slot
    epoch: int = 0  # the last one that ended under this driver
    epoch_ended: float = 0.0
    overdue: str | None = None  # why its worker is being stopped

    @property
    def gpu_s(self) -> float:
        """Return the GPU-seconds that its worker has spent; each of three trials at 0.3 takes a third of a GPU."""
        gpus = self.job.resources.gpus
        return (time.monotonic() - self.since) / trials_per_gpu(gpus) if self.since is not None and gpus else 0.0


@dataclass
class TrialLoop:
    """Submits trials while slots are free; handles events, lost workers and limits."""

    plan: Plan
    queue: TrialQueue
    executor: Executor
    folder: Path
    listener: RunListener
    limits: Limits
    is_device: Callable[[str], bool]  # true for a measurement's device_name if trials may get such a device here
    _running: dict[str, _Running] = field(default_factory=dict, init=False)
    _retries: RetryPolicy = field(default_factory=RetryPolicy, init=False)
    _gpu_s: float = field(default=0.0, init=False)  # spent by ended trials and by measuring

    def __post_init__(self) -> None:
        self._trial_limit_s = HOUR_S * (self.plan.pool.trial_time_limit_h or math.inf)
        self._capacity = self.executor.capacity

    def run(self) -> str | None:
        """Run until the queue is empty; return None, or the limit that ended the run before."""
        if self.plan.search is None:
            self._measure(self.queue.pending)
            self._check_limits()
        while True:
            if not self.limits.reached:
                self._fill()
            if not self._running and self.queue.peek() is None:
                return None
            if self.limits.reached and self._is_drained():
                return self.limits.reached
            for event in self.executor.poll(POLL_S):
                self._handle(event)
            self._note_capacity()
            self._stop_overdue()
            self._check_limits()

    def _fill(self) -> None:
        """Submit jobs while slots are free.

        If trials share a device, a search's suggestions are measured before they train, one batch after another.
        """
        in_batches = self.plan.search is not None and shares_devices(self.plan)
        starting = [running.job for running in self._running.values() if running.since is None]
        if (
            (self._running and in_batches)
            or len(starting) >= max(1, self.executor.capacity)
            or any(map(self._retries.runs_alone, starting))
        ):
            return
        batch = self._next_batch()
        if in_batches and batch:
            self._measure([job.trial for job in batch])
            for job in reversed(batch):  # measured memory may allow another number of trials on a device
                self.queue.requeue(job)
            if self._check_limits():
                return
            batch = self._next_batch()
        for job in batch:
            self._running[job.job_id] = _Running(job)
            self.executor.submit(job)
            self.listener.started(job)

    def _next_batch(self) -> list[TrainJob]:
        """Take the jobs from the queue that fit beside the running ones."""
        batch: list[TrainJob] = []
        concurrent = [running.job for running in self._running.values()]
        while not any(map(self._retries.needs_whole_machine, concurrent)):
            free = self.executor.capacity - sum(map(self._slots_used, concurrent))
            if free < SMALLEST_SLOT or len(concurrent) >= (self.plan.pool.max_concurrent or math.inf):
                break
            if (job := self.queue.next(concurrent)) is None:
                break
            packed = self._packed(job)
            # Strictly first in, first out; otherwise a large trial could starve.
            if concurrent and (self._slots_used(packed) > free + 1e-9 or self._retries.needs_whole_machine(packed)):
                self.queue.requeue(job)
                break
            batch.append(packed)
            concurrent.append(packed)
        return batch

    def _measure(self, trials: list[Trial]) -> None:
        """Measure the trials' steps if trials share a device. Otherwise each worker measures its own step."""
        if not shares_devices(self.plan):
            return
        began, gpus = time.monotonic(), float(any(trial.gpus_per_trial for trial in trials))  # a whole GPU

        def gpu_s() -> float:
            return (time.monotonic() - began) * gpus

        MeasuringPhase(
            executor=self.executor,
            folder=self.folder,
            listener=self.listener,
            is_device=self.is_device,
            should_end=lambda: self._check_limits(gpu_s()),
            time_limit_s=self._trial_limit_s,
        ).run(trials)
        self._gpu_s += gpu_s()

    def _handle(self, event: Event) -> None:
        running = self._running.get(event.job_id)
        if running is None:  # the end of a measuring job
            return
        now = time.monotonic()
        match event:
            case Started():
                running.since = now
            case Progress(metrics=metrics):
                if not isinstance(metrics, Measured):
                    running.epoch, running.epoch_ended = metrics.epoch, now
                    self.listener.progress(event.job_id, metrics)
                elif metrics.error:
                    self.listener.note(f"{metrics.measure_id}: not measured: {metrics.error}")
            case Finished(status=status, error=error):
                self._end(running, status, error)
            case Lost():
                self._handle_loss(running, event)

    def _handle_loss(self, running: _Running, lost: Lost) -> None:
        job = running.job
        if lost.folder_failed:
            raise UserError(
                f"{self.folder}: cannot be written: {lost.reason}; free space or change its permissions. Finished "
                "trials are stored, and the same command continues"
            )
        if row := read_result(self.folder, job.job_id, job.attempt):  # the worker died after it had stored its row
            self._end(running, row["status"], row["error"])
        elif running.overdue:
            self._fail(running, running.overdue)
        else:
            retry, reason = self._retries.decide(job, running.epoch, lost)
            if retry is None:
                self._fail(running, reason)
                return
            self._forget(job)
            self.listener.lost(job.job_id, reason)
            self.queue.requeue(retry)

    def _fail(self, running: _Running, reason: str) -> None:
        """Store the failed row of a job whose worker cannot."""
        write_result(self.folder, failed_row(running.job, reason), ())
        self._end(running, "failed", reason)

    def _end(self, running: _Running, status: Status, error: str | None) -> None:
        self._forget(running.job)
        self.queue.record(running.job, status)
        self.listener.ended(running.job.job_id, status, error if status == "failed" else None)

    def _forget(self, job: TrainJob) -> None:
        self._gpu_s += self._running.pop(job.job_id).gpu_s

    def _note_capacity(self) -> None:
        before, self._capacity = self._capacity, self.executor.capacity
        if self._capacity != before:
            now = f"{self._capacity} concurrent trials" if self._capacity else "none, so the run waits"
            self.listener.note(f"capacity changed: {now} (it was {before})")

    def _stop_overdue(self) -> None:
        for job_id, running in self._running.items():
            if running.since and not running.overdue and time.monotonic() - running.since > self._trial_limit_s:
                running.overdue = f"took longer than its limit of {clock(self._trial_limit_s)} (trial_time_limit_h)"
                self.executor.stop(job_id)

    def _check_limits(self, measuring_gpu_s: float = 0.0) -> bool:
        """Return whether a limit is reached, so that nothing new starts. The listener hears of the first one."""
        running = sum(running.gpu_s for running in self._running.values())
        if self.limits.check(self._gpu_s + running + measuring_gpu_s):
            grace = f"epochs that end within {self.plan.pool.grace_s:g} s still count"
            self.listener.note(f"{self.limits.reached}; {grace}")
        return self.limits.reached is not None

    def _is_drained(self) -> bool:
        """True if every running trial has a checkpoint since the limit was reached, or the grace time is over."""
        begun = [running for running in self._running.values() if running.since is not None]
        return all(running.epoch_ended >= self.limits.since for running in begun) or self.limits.grace_is_over

    def _slots_used(self, job: TrainJob) -> float:
        """Return the executor slots that the job occupies; a slot is what a trial is planned to take."""
        planned = self.plan.trials[0].gpus_per_trial
        return job.resources.gpus / planned if planned else 1.0

    def _packed(self, job: TrainJob) -> TrainJob:
        pool, trial = self.plan.pool, job.trial
        memory_mib = 1024 * pool.gpu_memory_gib if pool.gpu_memory_gib else self.executor.gpu_memory_mib
        if pool.gpus_per_trial != "pack" or memory_mib is None or self._retries.runs_alone(job):
            return job
        measured = read_measurement(self.folder, measure_id(trial))
        peak_mib = measured["peak_memory_mib"] if measured else predicted_peak_mib(trial)
        return pack(job, peak_mib, memory_mib, pool.memory_margin)
