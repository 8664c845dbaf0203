"""The queue of trials: in the plan's order, or as a search chooses; without trials that have a stored result."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sweep.executors.base import ResourceRequest, TrainJob
from sweep.plan.model import Plan, Trial
from sweep.run.result_cache import ResultCache
from sweep.schema import Status
from sweep.store.layout import StudyPaths
from sweep.store.progress import TrialProgress
from sweep.store.study import read_result

if TYPE_CHECKING:
    from sweep.search.optuna_search import OptunaSearch


class TrialQueue:
    """Planned trials without a stored result, in running order.

    Args:
        outcomes: trial_id -> the row that counts, with the number of the last attempt; with all columns if the plan
            has a search.
        limit: run only the first trials of the plan; with a search, end after so many newly completed suggestions.
        retry_failed: run stored failures again.
        cache: results of other studies, copied instead of training.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        outcomes: Mapping[str, Mapping[str, Any]],
        *,
        limit: int | None = None,
        retry_failed: bool = False,
        cache: ResultCache | None = None,
    ) -> None:
        self.copied = 0  # results taken from other studies
        self.statuses: dict[str, Status] = {trial_id: row["status"] for trial_id, row in outcomes.items()}
        self._plan, self._folder, self._cache, self._retry_failed = plan, folder, cache, retry_failed
        self._paths = StudyPaths(folder)
        self._attempts: dict[str, int] = {trial_id: row["attempt"] for trial_id, row in outcomes.items()}
        self._limit, self._newly_completed = limit if plan.search else None, 0
        self._earlier_rows: list[Mapping[str, Any]] = []  # rows of earlier runs, for the search
        jobs = [self._job(trial) for trial in plan.trials[:limit]]
        if plan.search:
            jobs = [*map(self._job, plan.baselines), *self._interrupted(outcomes)]
            listed = {job.job_id for job in jobs}
            self._earlier_rows = [outcomes[t.trial_id] for t in plan.trials if t.trial_id in outcomes.keys() - listed]
        self.requested = {job.job_id for job in jobs} | {row["trial_id"] for row in self._earlier_rows}
        self._pending = deque(job for job in jobs if self._is_missing(job.trial))

    def copy_cached(self) -> None:
        """Store the results that other studies hold of pending trials, and remove these trials from the queue."""
        self._pending = deque([job for job in self._pending if not self._copy(job)])

    def next(self, running: Collection[TrainJob]) -> TrainJob | None:
        """Remove and return the next job to run concurrently with `running`; None if there is none now."""
        chosen = sum(job.suggestion is not None for job in running)
        while self._limit is None or self._newly_completed + chosen < self._limit:
            if self._pending:
                return self._pending.popleft()
            if self._plan.search is None:
                return None
            suggestion = self._search.suggest({job.job_id: job.suggestion or 0 for job in running})
            if suggestion is None:
                return None
            self.requested.add(suggestion.trial.trial_id)
            if not self._copy(job := self._job(suggestion.trial, suggestion.number)):
                return job
        # the limit is for suggestions, not for baselines
        return self._pending.popleft() if self._pending and self._pending[0].suggestion is None else None

    def peek(self) -> TrainJob | None:
        """Return the next job and leave it at the head of the queue."""
        if (job := self.next([])) is not None:
            self.requeue(job)
        return job

    def requeue(self, job: TrainJob) -> None:
        """Put a job back at the head of the queue."""
        self._pending.appendleft(job)

    def record(self, job: TrainJob, status: Status) -> None:
        """Note that the job's row is stored."""
        self.statuses[job.job_id], self._attempts[job.job_id] = status, job.attempt
        if self._plan.search and (row := read_result(self._folder, job.job_id, job.attempt)):
            if status == "completed" and job.suggestion is not None:
                self._newly_completed += 1
            self._search.tell(row)

    @property
    def pending(self) -> list[Trial]:
        """Return the trials that are known to run next."""
        return [job.trial for job in self._pending]

    @property
    def expected(self) -> list[Trial]:
        """Return the trials still to run, for a forecast; candidates stand in for what a search has yet to choose."""
        if self._plan.search is None:
            return self.pending
        certain = [job.trial for job in self._pending if job.suggestion is None]
        begun = [job.trial for job in self._pending if job.suggestion is not None]
        known = {trial.trial_id for trial in begun}
        choice = [trial for trial in self._plan.candidates if trial.trial_id not in known]
        free = [trial for trial in choice if trial.trial_id not in self.statuses]
        left = max(0, min(self._plan.search.trials - (len(choice) - len(free)) - len(begun), len(free)))
        spread_evenly = [free[i * len(free) // left] for i in range(left)]
        return certain + [*begun, *spread_evenly][: self._limit]

    @property
    def planned(self) -> int:
        """Return the number of trials that this study will have, as far as known."""
        return len((self.requested & self.statuses.keys()) | {trial.trial_id for trial in self.expected})

    def _job(self, trial: Trial, suggestion: int | None = None) -> TrainJob:
        case = self._plan.first_cases[trial.trial_id]
        return TrainJob(
            trial=trial,
            attempt=self._attempts.get(trial.trial_id, 0) + 1,
            labels=case.labels,
            resources=ResourceRequest.of_trial(trial),
            suggestion=suggestion,
        )

    @cached_property
    def _search(self) -> OptunaSearch:
        """The search, made when first needed: importing Optuna takes half a second."""
        from sweep.search.optuna_search import OptunaSearch

        search = OptunaSearch(self._plan, self._paths.optuna_log)
        for row in sorted(self._earlier_rows, key=lambda row: _suggestion_number(row) or 0):
            search.tell(row)
        return search

    def _is_missing(self, trial: Trial) -> bool:
        status = self.statuses.get(trial.trial_id)
        if status == "failed":
            return self._retry_failed
        return status is None or (status == "pruned" and trial.early_stop is None)

    def _copy(self, job: TrainJob) -> bool:
        """True if another study's result has been stored as this job's."""
        row = self._cache.take(job) if self._cache else None
        if row is None:
            return False
        self.copied += 1
        self.statuses[job.job_id] = row["status"]
        if self._plan.search:
            self._search.tell(row)
        return True

    def _interrupted(self, outcomes: Mapping[str, Mapping[str, Any]]) -> list[TrainJob]:
        """Return jobs of unfinished suggestions and, with retry_failed, of failed ones, in order of suggestion."""
        jobs = []
        for trial in self._plan.trials:
            if trial.trial_id in outcomes:
                number = _suggestion_number(outcomes[trial.trial_id])
            else:
                progress = TrialProgress.read(self._paths.checkpoint(trial.trial_id))
                number = progress.suggestion if progress else None
            if (number is not None or trial.trial_id in outcomes) and self._is_missing(trial):
                jobs.append(self._job(trial, number))
        return sorted(jobs, key=lambda job: job.suggestion or 0)


def _suggestion_number(row: Mapping[str, Any]) -> int | None:
    """Return the 1-based index among the search's suggestions, or None."""
    return None if pd.isna(row["suggestion"]) else int(row["suggestion"])
