"""What a study has done, runs and lacks, read from its folder alone."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sweep.errors import Problem, UserError
from sweep.grid.search import Search
from sweep.plan.model import candidate_ids
from sweep.plan.plan_file import PlanOutline, plan_outline_from_json
from sweep.store.layout import StudyPaths, is_compacted_file
from sweep.store.lock import read_lock_holder
from sweep.store.outcomes import select_outcomes
from sweep.store.progress import TrialProgress
from sweep.store.recovery import list_damaged_compacted
from sweep.store.study import read_measurements, read_plan_json, read_rows
from sweep.text import plural

State = Literal["completed", "failed", "pruned", "running", "missing"]
STATES: tuple[State, ...] = ("completed", "failed", "pruned", "running", "missing")


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """One trial. A missing one that has progress was interrupted, and goes on from there."""

    trial_id: str
    state: State
    error: str | None = None  # why it failed
    progress: TrialProgress | None = None
    suggested: bool = False  # by a search, as what is no baseline


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """A study as its folder shows it."""

    trials: tuple[TrialStatus, ...]  # in the plan's order; of what a search may choose from, what it has chosen
    # Files that cannot be read, but for loose curves, which are left to the report.
    damaged: tuple[Path, ...]
    set_aside: tuple[Path, ...]  # damaged parts of earlier runs
    unreadable: tuple[Problem, ...] = ()  # folders that are none, or that cannot be looked into
    driver: Mapping[str, Any] | None  # pid, host and started_at of the process that runs the study now
    measuring: TrialProgress | None = None  # how far it is, if it measures now; an epoch is a measurement
    search: Search | None = None
    tries: int = 0  # trials that the search chooses until it ends


def study_status(folder: Path) -> StudyStatus:
    """Where every planned trial stands. Raises UserError if `folder` holds no plan, or cannot be asked."""
    try:
        return _study_status(folder)
    except OSError as error:  # such as a file where a folder should be
        raise UserError([Problem(str(error.filename or folder), "", f"cannot be read: {error.strerror}")]) from error


def _study_status(folder: Path) -> StudyStatus:
    plan, paths = plan_outline_from_json(read_plan_json(folder), folder), StudyPaths(folder)
    unreadable: list[Problem] = []
    stored: Mapping[Any, Any] = {}
    begun: Collection[str] = ()
    damaged: list[Path] = []
    with _kept(unreadable):
        rows, damaged = read_rows(folder, ("attempt", "status", "error"))
        stored = select_outcomes(rows)[["attempt", "status", "error"]].to_dict("index")
    with _kept(unreadable):
        damaged = [*damaged, *read_measurements(folder, ())[1]]
    with _kept(unreadable):
        begun = _begun(paths.checkpoints)
    driver = read_lock_holder(folder)
    token = driver.get("token") if driver else None
    measuring = TrialProgress.read(paths.measurements) if driver else None
    return StudyStatus(
        trials=_trials(plan, folder, stored, begun, token),
        damaged=tuple(dict.fromkeys([*damaged, *list_damaged_compacted(folder)])),
        unreadable=tuple(unreadable),
        set_aside=tuple(sorted(paths.quarantine.glob("*/*"))),
        driver=driver,
        measuring=measuring if measuring and measuring.driver == token else None,
        search=plan.search,
        tries=plan.search.tries(len(candidate_ids(plan.cases))) if plan.search else 0,
    )


@contextlib.contextmanager
def _kept(problems: list[Problem]) -> Iterator[None]:
    """Keep what a folder's reading raised, so that the rest is still told."""
    try:
        yield
    except UserError as error:
        problems += error.problems


def _trials(
    plan: PlanOutline, folder: Path, stored: Mapping[Any, Any], begun: Collection[str], token: str | None
) -> tuple[TrialStatus, ...]:
    suggested = candidate_ids(plan.cases) if plan.search else frozenset()
    return tuple(
        _trial_status(folder, trial.trial_id, stored, begun, token, trial.trial_id in suggested)
        for trial in plan.trials
        if trial.trial_id not in suggested or trial.trial_id in stored or trial.trial_id in begun
    )


def _begun(checkpoints: Path) -> Collection[str]:
    """The trials that have a checkpoint's folder: others need not be looked for one by one."""
    try:
        return set(os.listdir(checkpoints))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise UserError([Problem(str(checkpoints), "", f"cannot be read: {error.strerror}")]) from error


def _trial_status(
    folder: Path, trial_id: str, stored: Mapping[Any, Any], begun: Collection[str], token: str | None, suggested: bool
) -> TrialStatus:
    row = stored.get(trial_id)
    ended = row is not None and row["status"] == "completed"
    progress = TrialProgress.read(StudyPaths(folder).checkpoint(trial_id)) if trial_id in begun and not ended else None
    running = progress is not None and token is not None and progress.driver == token
    if row is not None and not (running and progress and progress.attempt > row["attempt"]):  # nor is it tried again
        error = row["error"] if row["status"] == "failed" else None
        return TrialStatus(trial_id=trial_id, state=row["status"], error=error, suggested=suggested)
    state: State = "running" if running else "missing"
    return TrialStatus(trial_id=trial_id, state=state, progress=progress, suggested=suggested)


def describe(status: StudyStatus) -> str:
    """One line for the study, and one for each trial and part that there is more to say of."""
    planned = [trial for trial in status.trials if not trial.suggested]
    lines = []
    if status.search:
        suggested = [trial for trial in status.trials if trial.suggested]
        lines.append(_describe_search(status.search, status.tries, suggested))
    if planned or not status.search:
        kind = "baselines" if status.search else f"{plural(len(planned), 'trial')} planned"
        lines.append(f"{kind}: {_counts(planned, STATES)}")
    if status.driver:
        lines.append("run by process {pid} on {host} since {started_at}".format(**status.driver))
    if status.measuring:
        schedules = plural(status.measuring.epochs, "schedule")
        lines.append(f"measuring: {status.measuring.epoch} of {schedules} done, then it trains")
    for trial in status.trials:
        if trial.error:
            lines.append(f"{trial.trial_id}: failed: {trial.error}")
        elif trial.progress:
            state = "running" if trial.state == "running" else "interrupted"
            lines.append(f"{trial.trial_id}: {state}, epoch {trial.progress.epoch}/{trial.progress.epochs} ended")
    lines += map(str, status.unreadable)
    lines += map(_damage, status.damaged)
    if status.set_aside:
        files = plural(len(status.set_aside), "damaged file")
        words = "has been set aside; what it" if len(status.set_aside) == 1 else "have been set aside; what they"
        lines.append(f"{files} {words} alone held counts as not stored:")
        lines += [f"  {part}" for part in status.set_aside]
    return "\n".join(lines)


def _damage(file: Path) -> str:
    if is_compacted_file(file):
        return f"{file}: is damaged; what is whole of it or its copy counts, and `famba-sweep compact` writes it anew"
    return f"{file}: cannot be read; the next run sets it aside"


def _describe_search(search: Search, tries: int, trials: Collection[TrialStatus]) -> str:
    ended = [trial for trial in trials if trial.state in ("completed", "failed", "pruned")]
    begun = [trial for trial in trials if trial.state in ("running", "missing")]
    words = f"optuna ({search.sampler}): {len(ended)} of {plural(tries, 'trial')} tried"
    if ended:
        words += f": {_counts(ended, STATES)}"
    interrupted = sum(trial.state == "missing" for trial in begun)
    counts = [(len(begun) - interrupted, "running"), (interrupted, "interrupted")]
    return "; ".join([words, *(f"{count} {state}" for count, state in counts if count)])


def _counts(trials: Collection[TrialStatus], states: Collection[State]) -> str:
    counts = Counter(trial.state for trial in trials)
    return ", ".join(f"{counts[state]} {state}" for state in states if counts[state])
