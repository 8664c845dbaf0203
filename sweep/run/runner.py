"""Run a plan: what is planned and not stored is measured and trained, and nothing that is stored is done again."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sweep.executors.base import Executor
from sweep.plan.model import Plan, Trial
from sweep.plan.plan_file import plan_to_json
from sweep.run.listeners.screen import Screen
from sweep.run.loop import TrialLoop
from sweep.run.queue import TrialQueue
from sweep.run.result_cache import ResultCache
from sweep.run.signals import Signals
from sweep.store.errors import as_user_error
from sweep.store.layout import StudyPaths
from sweep.store.lock import lock_study
from sweep.store.outcomes import select_outcomes
from sweep.store.progress import TrialProgress
from sweep.store.recovery import quarantine
from sweep.store.study import StoredRows, is_current, read_rows, save_plan

# What resuming a grid reads of each row; a search is told all of it.
RESUME_COLUMNS = ("trial_id", "attempt", "status", "error", "suggestion")

ExecutorFactory = Callable[[Path, Sequence[Trial]], Executor]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Where the trials that were asked for stand after a run; what earlier runs stored counts too."""

    asked: int
    completed: int
    failed: int
    pruned: int = 0  # ended early by early_stop
    taken: int = 0  # results of other studies
    interrupted: bool = False
    limit_reached: str | None = None  # the limit that ended the run before everything was done

    @property
    def sentence(self) -> str:
        pruned = f", {self.pruned} ended early" if self.pruned else ""
        failed = f", {self.failed} failed (`famba-sweep status` says why, --retry-failed tries again)"
        return f"{self.completed} of {self.asked} trials completed{pruned}{failed if self.failed else ''}"

    @property
    def exit_code(self) -> int:
        return 130 if self.interrupted else 1 if self.failed else 3 if self.limit_reached else 0


def run_plan(
    plan: Plan,
    folder: Path,
    executor_factory: ExecutorFactory,
    *,
    screen: Screen,
    stored: StoredRows | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    cache: ResultCache | None = None,
    is_device: Callable[[str], bool] = lambda name: True,
) -> RunSummary:
    """Train what `folder` has no row of, and store the rows: the plan's trials, or those that its search chooses.

    A result that the `cache` has is copied instead. What a trial will do in a training step is measured before, alone
    on a device, where no measurement is stored. A trial that fails is stored as failed and the others go on;
    `retry_failed` tries it again. `limit` keeps to the first trials of the plan, or ends a search after so many newly
    completed ones. Ctrl-C stops what runs and leaves its checkpoints; SIGTERM, and a limit of the plan's pool, first
    give running epochs time to end. Parts that cannot be read are set aside, as if not stored. What has been read of
    the folder, with `resume_columns`, may be given as `stored`: it is read again if it is no longer all. A measurement
    whose device_name is none of these trials' devices, by `is_device`, is taken again.
    Raises UserError if another process drives the study, the executor cannot run these trials, or the folder cannot be
    written.
    """
    with lock_study(folder):
        if stored is None or not is_current(folder, stored):  # another driver may have ended since
            stored = read_rows(folder, resume_columns(plan))
        with as_user_error(folder):
            set_aside = quarantine(folder, stored.damaged)
        for part in set_aside:
            screen.note(f"{part.name} could not be read and is set aside in {part.parent}; a trial without a row runs")
        save_plan(folder, plan_to_json(plan))
        found = by_trial(stored.rows)
        _remove_checkpoints_of(found, folder)
        with as_user_error(folder):
            agenda = TrialQueue(plan, folder, found, limit=limit, retry_failed=retry_failed, cache=cache)
        if agenda.taken:
            screen.note(f"{agenda.taken} results taken from other studies in {folder.parent} (--no-cache trains again)")
        interrupted, limit_reached = _run(plan, agenda, folder, executor_factory, screen, is_device)
        if interrupted or limit_reached:  # workers may have stored what nobody heard of any more
            rows, _ = read_rows(folder, columns=RESUME_COLUMNS)
            agenda.statuses.update({trial_id: row["status"] for trial_id, row in by_trial(rows).items()})
    states = [agenda.statuses.get(trial_id) for trial_id in agenda.asked]
    if interrupted or limit_reached:
        screen.note(
            f"Stopped: {len(states) - states.count(None)} of {len(states)} trials are stored. "
            "The same command goes on with the others."
        )
    return RunSummary(
        asked=len(states),
        completed=states.count("completed"),
        failed=states.count("failed"),
        pruned=states.count("pruned"),
        taken=agenda.taken,
        interrupted=interrupted,
        limit_reached=limit_reached,
    )


def resume_columns(plan: Plan) -> Collection[str] | None:
    """What resuming a plan reads of each row; None for all of it, which a search is told."""
    return None if plan.search else RESUME_COLUMNS


def untrained(
    plan: Plan, folder: Path, stored: StoredRows, *, limit: int | None = None, retry_failed: bool = False
) -> list[Trial]:
    """The trials that `run_plan` would train with these rows stored, unless other studies have them.

    For those that a search would choose stand as many others that it may, spread over the plan.
    """
    return TrialQueue(plan, folder, by_trial(stored.rows), limit=limit, retry_failed=retry_failed).expected


def _remove_checkpoints_of(stored: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Left where a worker died after it had stored the row of a trial that needs them no more."""
    checkpoints = StudyPaths(folder).checkpoints
    for name in os.listdir(checkpoints):
        row, progress = stored.get(name), TrialProgress.read(checkpoints / name)
        begun_since = row and progress and progress.attempt > row["attempt"]
        if row and row["status"] != "failed" and not begun_since:
            shutil.rmtree(checkpoints / name, ignore_errors=True)


def by_trial(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The row that counts of each trial, by trial_id, with the number of its last attempt as `attempt`."""
    counting = select_outcomes(rows).assign(attempt=rows.groupby("trial_id")["attempt"].max())
    records: list[dict[str, Any]] = counting.reset_index().to_dict("records")  # type: ignore[assignment]
    return {row["trial_id"]: row for row in records}


def _run(
    plan: Plan,
    agenda: TrialQueue,
    folder: Path,
    executor_factory: ExecutorFactory,
    screen: Screen,
    is_device: Callable[[str], bool],
) -> tuple[bool, str | None]:
    """Whether it was interrupted, and the limit that it reached."""
    if (first := agenda.next([])) is None:
        return False, None
    agenda.again(*first)
    trials = plan.trials if plan.search else agenda.waiting
    with Signals() as signals:
        try:
            with (
                contextlib.closing(executor_factory(folder, trials)) as executor,
                screen.showing(
                    [trial.trial_id for trial in agenda.expected], planned=agenda.planned, capacity=executor.capacity
                ),
                as_user_error(folder),
            ):
                signals.patient = True
                drive = TrialLoop(plan, agenda, executor, folder, screen, lambda: signals.preempted_at, is_device)
                ended_by = drive.run()
        except KeyboardInterrupt:
            return True, None
    return signals.preempted_at is not None and ended_by is not None, ended_by
