"""Run a plan: what is planned and not stored is measured and trained, and nothing that is stored is done again."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sweep.driver_lock import lock_study
from sweep.executor import Executor, Finished, Lost, Progress
from sweep.live import Screen
from sweep.measure import Measured
from sweep.measure_phase import measure_first
from sweep.plan import Plan, TrialPlan, plan_to_json
from sweep.progress import checkpoint_folder
from sweep.store import completed, outcomes, quarantine, read_rows, save_plan, write_result
from sweep.trial import failed_row

POLL_S = 0.5

ExecutorFactory = Callable[[Path, Sequence[TrialPlan]], Executor]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Where the trials that were asked for stand after a run; what earlier runs stored counts too."""

    asked: int
    completed: int
    failed: int
    interrupted: bool

    @property
    def sentence(self) -> str:
        failed = f", {self.failed} failed (`famba-sweep status` says why, --retry-failed tries again)"
        return f"{self.completed} of {self.asked} trials completed{failed if self.failed else ''}"

    @property
    def exit_code(self) -> int:
        return 130 if self.interrupted else 1 if self.failed else 0


def run_plan(
    plan: Plan,
    folder: Path,
    executor_factory: ExecutorFactory,
    *,
    screen: Screen,
    limit: int | None = None,
    retry_failed: bool = False,
) -> RunSummary:
    """Train the trials of `plan` (the first `limit` of them) that `folder` has no row of, and store their rows.

    What they will do in a training step is measured before, alone on a device, where no measurement is stored.
    A trial that fails is stored as failed and the others go on; `retry_failed` tries it again. Ctrl-C and SIGTERM
    stop what runs and leave its checkpoints. Parts that cannot be read are set aside, as if not stored.
    Raises UserError if another process drives the study, or the executor cannot run these trials.
    """
    asked = plan.trials[:limit]
    with lock_study(folder):
        rows, damaged = read_rows(folder)
        for part in quarantine(folder, damaged):
            screen.note(f"{part.name} could not be read and is set aside in {part.parent}; a trial without a row runs")
        save_plan(folder, plan_to_json(plan))
        for trial_id in completed(rows)["trial_id"]:  # left where a worker died after its row was stored
            shutil.rmtree(checkpoint_folder(folder, trial_id), ignore_errors=True)
        todo = _todo(asked, rows, retry_failed)
        interrupted = False
        if todo:
            interrupted = _run(todo, len(asked), folder, executor_factory, screen)
            rows, _ = read_rows(folder)
    status = outcomes(rows)["status"].reindex([trial.trial_id for trial in asked])
    if interrupted:
        screen.note(
            f"Stopped: {status.notna().sum()} of {len(asked)} trials are stored. "
            "The same command goes on with the others."
        )
    return RunSummary(
        asked=len(asked),
        completed=int((status == "completed").sum()),
        failed=int((status == "failed").sum()),
        interrupted=interrupted,
    )


def untrained(plan: Plan, folder: Path, *, limit: int | None = None, retry_failed: bool = False) -> list[TrialPlan]:
    """The trials that `run_plan` would train now, in the plan's order."""
    return [trial for trial, _ in _todo(plan.trials[:limit], read_rows(folder)[0], retry_failed)]


def _todo(asked: Sequence[TrialPlan], rows: pd.DataFrame, retry_failed: bool) -> deque[tuple[TrialPlan, int]]:
    """What is to be trained, in the plan's order, each with the number of its attempt."""
    status, attempts = outcomes(rows)["status"], rows.groupby("trial_id")["attempt"].max()
    return deque(
        (trial, int(attempts.get(trial.trial_id, 0)) + 1)
        for trial in asked
        if trial.trial_id not in status or (retry_failed and status[trial.trial_id] == "failed")
    )


def _run(
    todo: deque[tuple[TrialPlan, int]], asked: int, folder: Path, executor_factory: ExecutorFactory, screen: Screen
) -> bool:
    """Whether it was interrupted."""
    trials = [trial for trial, _ in todo]
    try:
        with (
            _interruptible(),
            contextlib.closing(executor_factory(folder, trials)) as executor,
            screen.showing([trial.trial_id for trial in trials], planned=asked, capacity=executor.capacity),
        ):
            measure_first(executor, trials, folder, screen)
            _drive(executor, todo, folder, screen)
    except KeyboardInterrupt:
        return True
    return False


def _drive(executor: Executor, waiting: deque[tuple[TrialPlan, int]], folder: Path, screen: Screen) -> None:
    running: dict[str, tuple[TrialPlan, int]] = {}
    lost_before: set[str] = set()
    while waiting or running:
        while waiting and len(running) < executor.capacity:
            trial, attempt = waiting.popleft()
            running[trial.trial_id] = trial, attempt
            executor.submit(trial, attempt)
            screen.started(trial.trial_id)
        for event in executor.poll(POLL_S):
            match event:
                case Progress(metrics=metrics) if not isinstance(metrics, Measured):
                    screen.progress(event.trial_id, metrics)
                case Finished():
                    del running[event.trial_id]
                    screen.ended(event.trial_id, event.status, event.error)
                case Lost():
                    trial, attempt = running.pop(event.trial_id)
                    rows, _ = read_rows(folder)
                    row = rows[(rows["trial_id"] == trial.trial_id) & (rows["attempt"] == attempt)]
                    if len(row):  # the worker died after it had stored it
                        status = row["status"].item()
                        screen.ended(trial.trial_id, status, row["error"].item() if status == "failed" else None)
                    elif trial.trial_id not in lost_before:
                        lost_before.add(trial.trial_id)
                        waiting.appendleft((trial, attempt))
                        screen.lost(trial.trial_id, f"{event.reason}; it goes on from its checkpoint")
                    else:
                        failed = failed_row(trial, attempt, f"lost twice: {event.reason}")
                        write_result(folder, failed, ())
                        screen.ended(trial.trial_id, failed.status, failed.error)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, and whatever follows the first of them cannot disturb the closing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
