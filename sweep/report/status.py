"""The state of a study, read from its folder alone: what is done, running, damaged or missing."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from famba_core.errors import Problem
from sweep.errors import UserError
from sweep.files.names import list_names
from sweep.grid.search import Search
from sweep.plan.model import candidate_ids
from sweep.plan.plan_file import read_plan_outline
from sweep.store.layout import StudyPaths, is_compacted_file
from sweep.store.lock import read_lock_holder
from sweep.store.progress import TrialProgress
from sweep.store.recovery import list_damaged_compacted
from sweep.store.study import read_measurements, read_rows, select_outcomes
from sweep.text import plural

State = Literal["completed", "failed", "pruned", "running", "missing"]
STATES: tuple[State, ...] = ("completed", "failed", "pruned", "running", "missing")


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """The state of one trial. A missing trial with progress was interrupted, and will be resumed from there."""

    trial_id: str
    state: State
    error: str | None = None  # why it failed
    progress: TrialProgress | None = None


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """The state of a study."""

    trials: tuple[TrialStatus, ...]  # in the plan's order; of a search's candidates only those that it suggested
    damaged: tuple[Path, ...]  # files that cannot be read; learning curves are not checked unless compacted
    quarantined: tuple[Path, ...]  # damaged files that earlier runs moved to quarantine/
    unreadable: tuple[Problem, ...]  # folders that cannot be read
    driver: Mapping[str, Any] | None  # pid, host and started_at of the process that runs the study now
    measuring: TrialProgress | None  # of the measuring phase, if it is running; an epoch is a measurement
    search: Search | None
    candidates: frozenset[str]  # ids of the trials that the search chooses from


def read_status(folder: Path) -> StudyStatus:
    """Return the state of every planned trial. Raises UserError if `folder` holds no plan, or cannot be read."""
    try:
        return _read_status(folder)
    except OSError as error:  # such as a file where a folder should be
        raise UserError(f"cannot be read: {error.strerror}", error.filename or folder) from error


def _read_status(folder: Path) -> StudyStatus:
    plan, paths = read_plan_outline(folder), StudyPaths(folder)
    driver = read_lock_holder(folder)
    token = driver.get("token") if driver else None
    unreadable: list[Problem] = []
    damaged: list[Path] = []
    stored: Mapping[Any, Any] = {}
    begun: Collection[str] = ()  # one listing instead of a look-up for each trial
    with _collect(unreadable):
        rows, damaged = read_rows(folder, ("attempt", "status", "error"))
        stored = select_outcomes(rows)[["attempt", "status", "error"]].to_dict("index")
    with _collect(unreadable):
        damaged = [*damaged, *read_measurements(folder, ())[1]]
    with _collect(unreadable):
        begun = set(list_names(paths.checkpoints))
    measuring = TrialProgress.read(paths.measurements) if driver else None
    chosen_from = candidate_ids(plan)
    trials = []
    for trial_id in (trial.trial_id for trial in plan.trials):
        if trial_id not in chosen_from or trial_id in stored or trial_id in begun:
            progress = TrialProgress.read(paths.checkpoint(trial_id)) if trial_id in begun else None
            trials.append(_trial_status(trial_id, stored.get(trial_id), progress, token))
    return StudyStatus(
        trials=tuple(trials),
        damaged=tuple(dict.fromkeys([*damaged, *list_damaged_compacted(folder)])),
        quarantined=tuple(sorted(paths.quarantine.glob("[!.]*/[!.]*"))),
        unreadable=tuple(unreadable),
        driver=driver,
        measuring=measuring if measuring and measuring.driver == token else None,
        search=plan.search,
        candidates=chosen_from,
    )


@contextlib.contextmanager
def _collect(problems: list[Problem]) -> Iterator[None]:
    """Collect the problems of one folder, so that the status of the others is still shown."""
    try:
        yield
    except UserError as error:
        problems += error.problems
    except FileNotFoundError:  # nothing has been stored there yet
        pass
    except OSError as error:
        problems.append(Problem(str(error.filename), "", f"cannot be read: {error.strerror}"))


def _trial_status(trial_id: str, row: Any, progress: TrialProgress | None, token: str | None) -> TrialStatus:
    """Return the state of a trial from its outcome, its checkpoint's progress and the running driver's token."""
    running = progress is not None and token is not None and progress.driver == token
    is_retried = running and progress and row and row["status"] != "completed" and progress.attempt > row["attempt"]
    if row and not is_retried:
        error = row["error"] if row["status"] == "failed" else None
        return TrialStatus(trial_id=trial_id, state=row["status"], error=error)
    return TrialStatus(trial_id=trial_id, state="running" if running else "missing", progress=progress)


def describe(status: StudyStatus) -> str:
    """Return lines for the study as a whole, and one for each trial and file that needs attention."""
    planned = [trial for trial in status.trials if trial.trial_id not in status.candidates]
    lines = []
    if status.search:
        lines.append(_describe_search(status, status.search))
    if planned or not status.search:
        kind = "baselines" if status.search else f"{plural(len(planned), 'trial')} planned"
        lines.append(f"{kind}: {_counts(planned)}")
    if status.driver:
        lines.append("run by process {pid} on {host} since {started_at}".format(**status.driver))
    if status.measuring:
        schedules = plural(status.measuring.epochs, "schedule")
        lines.append(f"measuring: {status.measuring.epoch} of {schedules} done; training follows")
    for trial in status.trials:
        if trial.error:
            lines.append(f"{trial.trial_id}: failed: {trial.error}")
        elif trial.progress:
            state = "running" if trial.state == "running" else "interrupted"
            lines.append(f"{trial.trial_id}: {state}, epoch {trial.progress.epoch}/{trial.progress.epochs} ended")
    lines += map(str, status.unreadable)
    lines += map(_describe_damage, status.damaged)
    if status.quarantined:
        files = plural(len(status.quarantined), "damaged file")
        lines.append(f"{files} in quarantine/; results that were nowhere else will be computed again:")
        lines += [f"  {file}" for file in status.quarantined]
    return "\n".join(lines)


def _describe_search(status: StudyStatus, search: Search) -> str:
    suggested = [trial for trial in status.trials if trial.trial_id in status.candidates]
    ended = [trial for trial in suggested if trial.state in ("completed", "failed", "pruned")]
    running = sum(trial.state == "running" for trial in suggested)
    interrupted = sum(trial.state == "missing" for trial in suggested)
    trials = plural(search.tries(len(status.candidates)), "trial")
    line = f"optuna ({search.sampler}): {len(ended)} of {trials} tried"
    if ended:
        line += f": {_counts(ended)}"
    if running:
        line += f"; {running} running"
    if interrupted:
        line += f"; {interrupted} interrupted"
    return line


def _counts(trials: Collection[TrialStatus]) -> str:
    counts = Counter(trial.state for trial in trials)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def _describe_damage(file: Path) -> str:
    if is_compacted_file(file):
        return f"{file}: is damaged; its intact rows and its copy are used, and `famba-sweep compact` writes it again"
    return f"{file}: cannot be read; the next run moves it to quarantine/"
