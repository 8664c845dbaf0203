"""Runs a plan: measures and trains the trials without a stored result, and never repeats one that has a result."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sweep.errors import as_user_error
from sweep.executors.base import ExecutorFactory, ResourceRequest
from sweep.files.names import list_names
from sweep.plan.model import Plan, Trial
from sweep.plan.plan_file import save_plan
from sweep.run.limits import Limits, Signals
from sweep.run.listeners.base import Broadcast, RunListener
from sweep.run.listeners.log_file import LogFile
from sweep.run.loop import TrialLoop
from sweep.run.queue import TrialQueue
from sweep.run.result_cache import ResultCache
from sweep.store.layout import StudyPaths
from sweep.store.lock import lock_study
from sweep.store.log import logging_to
from sweep.store.progress import TrialProgress
from sweep.store.recovery import quarantine
from sweep.store.study import StoredRows, is_current, read_rows, select_outcomes

# The columns that resuming a grid reads. A search reads all of them.
RESUME_COLUMNS = ("trial_id", "attempt", "status", "error", "suggestion")


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The state of the requested trials after a run; results of earlier runs count too."""

    requested: int
    completed: int
    failed: int
    pruned: int = 0  # ended early by early_stop
    copied: int = 0  # results of other studies
    interrupted: bool = False
    limit_reached: str | None = None  # the limit that ended the run early

    @property
    def sentence(self) -> str:
        pruned = f", {self.pruned} ended early" if self.pruned else ""
        failed = f", {self.failed} failed (`famba-sweep status` says why, --retry-failed tries again)"
        return f"{self.completed} of {self.requested} trials completed{pruned}{failed if self.failed else ''}"

    @property
    def exit_code(self) -> int:
        return 130 if self.interrupted else 1 if self.failed else 3 if self.limit_reached else 0


def run_plan(
    plan: Plan,
    folder: Path,
    executor_factory: ExecutorFactory,
    *,
    listeners: Sequence[RunListener] = (),
    stored: StoredRows | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    cache: ResultCache | None = None,
    is_device: Callable[[str], bool] = lambda name: True,
) -> RunSummary:
    """Train the plan's trials, or those that its search chooses, that have no row in `folder`, and store their rows.

    Training steps without a stored measurement are measured first, alone on a device. A trial that fails is stored as
    failed and the others go on. Ctrl-C stops running trials and keeps their checkpoints; SIGTERM, and a limit of the
    plan's pool, first give running epochs time to end. Corrupt files are moved to quarantine and count as not stored.

    Args:
        listeners: hear what happens, beside the study's run.log.
        stored: rows read before with `resume_columns`; they are read again if they are not current.
        limit: run only the first trials of the plan; with a search, end after so many newly completed suggestions.
        retry_failed: run trials again that are stored as failed.
        cache: results of other studies, copied instead of training.
        is_device: true for a measurement's device_name if it may be these trials' device; others are repeated.

    Raises UserError if another process drives the study, the executor cannot run these trials, or the folder cannot be
    written.
    """
    with lock_study(folder), logging_to(StudyPaths(folder).run_log):
        listener = Broadcast([*listeners, LogFile()])
        rows = _read_stored(plan, folder, stored, listener)
        save_plan(folder, plan)
        _remove_stale_checkpoints(rows, folder)
        queue = TrialQueue(plan, folder, rows, limit=limit, retry_failed=retry_failed, cache=cache)
        with as_user_error(folder):
            queue.copy_cached()
        if queue.copied:
            source = f"other studies in {folder.parent}"
            listener.note(f"{queue.copied} results copied from {source} (--no-cache trains them again)")
        planned = queue.planned  # of a search that is stopped, more than it has chosen
        interrupted, limit_reached = _run(plan, queue, folder, executor_factory, listener, is_device)
        requested = len(queue.requested)
        if interrupted or limit_reached:
            requested = max(planned, requested)
            _note_stop(queue, requested, folder, listener)
    states = [queue.statuses.get(trial_id) for trial_id in queue.requested]
    return RunSummary(
        requested=requested,
        completed=states.count("completed"),
        failed=states.count("failed"),
        pruned=states.count("pruned"),
        copied=queue.copied,
        interrupted=interrupted,
        limit_reached=limit_reached,
    )


def resume_columns(plan: Plan) -> Collection[str] | None:
    """Return the columns that resuming a plan reads; None for all of them, which a search needs."""
    return None if plan.search else RESUME_COLUMNS


def missing_trials(
    plan: Plan, folder: Path, stored: StoredRows, *, limit: int | None = None, retry_failed: bool = False
) -> list[Trial]:
    """Return the trials that `run_plan` would train with these rows stored, unless other studies have their results.

    Candidates, spread over the plan, stand in for what a search has yet to choose.
    """
    return TrialQueue(plan, folder, by_trial(stored.rows), limit=limit, retry_failed=retry_failed).expected


def by_trial(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the row that counts of each trial, by trial_id, with the number of its last attempt as `attempt`."""
    counting = select_outcomes(rows).assign(attempt=rows.groupby("trial_id")["attempt"].max())
    records: list[dict[str, Any]] = counting.reset_index().to_dict("records")  # type: ignore[assignment]
    return {row["trial_id"]: row for row in records}


def _read_stored(
    plan: Plan, folder: Path, stored: StoredRows | None, listener: RunListener
) -> dict[str, dict[str, Any]]:
    """Return the rows `by_trial`, read again if another driver has added some, and quarantine corrupt files."""
    if stored is None or not is_current(folder, stored):
        stored = read_rows(folder, resume_columns(plan))
    with as_user_error(folder):
        moved = quarantine(folder, stored.damaged)
    for part in moved:
        listener.note(f"{part.name} could not be read and was moved to {part.parent}; a trial without a row runs again")
    return by_trial(stored.rows)


def _remove_stale_checkpoints(stored: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Remove checkpoints of trials whose worker died after it had stored their row."""
    checkpoints = StudyPaths(folder).checkpoints
    for name in list_names(checkpoints):
        row, progress = stored.get(name), TrialProgress.read(checkpoints / name)
        begun_since = row and progress and progress.attempt > row["attempt"]
        if row and row["status"] != "failed" and not begun_since:
            shutil.rmtree(checkpoints / name, ignore_errors=True)


def _note_stop(queue: TrialQueue, requested: int, folder: Path, listener: RunListener) -> None:
    """Note how many trials are stored, with those rows of workers whose events nobody received."""
    rows, _ = read_rows(folder, columns=RESUME_COLUMNS)
    queue.statuses.update({trial_id: row["status"] for trial_id, row in by_trial(rows).items()})
    done = len(queue.requested & queue.statuses.keys())
    listener.note(f"Stopped: {done} of {requested} trials are stored. The same command continues with the others.")


def _run(
    plan: Plan,
    queue: TrialQueue,
    folder: Path,
    executor_factory: ExecutorFactory,
    listener: RunListener,
    is_device: Callable[[str], bool],
) -> tuple[bool, str | None]:
    """Run the queue; return whether it was interrupted, and the limit that ended it."""
    if queue.peek() is None:
        return False, None
    trials = plan.trials if plan.search else queue.pending
    resources = ResourceRequest.largest(map(ResourceRequest.of_trial, trials))
    with Signals() as signals:
        try:
            with contextlib.closing(executor_factory(folder, resources)) as executor, as_user_error(folder):
                expected = [trial.trial_id for trial in queue.expected]
                listener.run_began(expected, planned=queue.planned, capacity=executor.capacity)
                try:
                    signals.patient = True
                    limits = Limits(plan.pool, signals)
                    ended_by = TrialLoop(plan, queue, executor, folder, listener, limits, is_device).run()
                finally:
                    listener.run_ended()
        except KeyboardInterrupt:
            return True, None
    return signals.preempted_at is not None and ended_by is not None, ended_by
