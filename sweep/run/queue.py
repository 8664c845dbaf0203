"""Which trial is next: in the plan's order, or as a search chooses; none that is stored, here or in another study."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sweep.plan.model import Plan, Trial, baselines
from sweep.run.result_cache import ResultCache
from sweep.schema import Status
from sweep.store.layout import StudyPaths
from sweep.store.progress import TrialProgress
from sweep.store.study import read_result

if TYPE_CHECKING:
    from sweep.search.optuna_search import OptunaSearch


class TrialQueue:
    """What is planned and not stored, one trial at a time.

    Args:
        outcomes: of each stored trial the row that counts, by trial_id, with the number of its last attempt; all
            columns where the plan has a search.
        limit: only the first trials of the plan; with a search, so many newly completed trials of its choice.
        retry_failed: stored failures run again.
        cache: results of other studies, taken instead of training.
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
        self.taken = 0  # results of other studies
        self.statuses: dict[str, Status] = {trial_id: row["status"] for trial_id, row in outcomes.items()}
        self._folder, self._cache, self._retry_failed = folder, cache, retry_failed
        self._attempts: dict[str, int] = {trial_id: row["attempt"] for trial_id, row in outcomes.items()}
        self._plan, self._limit, self._newly_completed = plan, limit if plan.search else None, 0
        self._search: OptunaSearch | None = None
        self._told: list[Mapping[str, Any]] = []  # what the search is told when it is first asked
        listed: Sequence[Trial] = plan.trials[:limit]
        if plan.search:
            listed = [*baselines(plan), *self._begun_before(outcomes)]
            names = {trial.trial_id for trial in listed}
            self._told = [outcomes[t.trial_id] for t in plan.trials if t.trial_id in outcomes.keys() - names]
        self.asked = {trial.trial_id for trial in listed} | {row["trial_id"] for row in self._told}
        self._waiting = deque(
            (trial, self._attempt(trial)) for trial in listed if self._is_missing(trial) and not self._take(trial)
        )

    def next(self, running: Collection[Trial]) -> tuple[Trial, int] | None:
        """The next trial to run, with the number of its attempt; None if there is none now, beside what runs."""
        chosen = sum(trial.suggestion is not None for trial in running)
        while self._limit is None or self._newly_completed + chosen < self._limit:
            if self._waiting:
                return self._waiting.popleft()
            if self._plan.search is None or (trial := self._optuna().suggest(running)) is None:
                return None
            self.asked.add(trial.trial_id)
            if not self._take(trial):
                return trial, self._attempt(trial)
        return self._waiting.popleft() if self._waiting and self._waiting[0][0].suggestion is None else None

    def again(self, trial: Trial, attempt: int) -> None:
        """The attempt was lost and goes on, or found no room: it comes before anything else."""
        self._waiting.appendleft((trial, attempt))

    def ended(self, trial: Trial, attempt: int, status: Status) -> None:
        """The attempt's row is stored."""
        self.statuses[trial.trial_id], self._attempts[trial.trial_id] = status, attempt
        if self._plan.search and (row := read_result(self._folder, trial.trial_id, attempt)):
            self._newly_completed += status == "completed" and trial.suggestion is not None
            self._optuna().tell(row)

    @property
    def waiting(self) -> list[Trial]:
        """What is known to run next."""
        return [trial for trial, _ in self._waiting]

    @property
    def expected(self) -> list[Trial]:
        """Trials still to run, for a forecast: for those that a search will choose stand as many others that it may."""
        if self._plan.search is None:
            return self.waiting
        sure = [trial for trial in self.waiting if trial.suggestion is None]
        begun = [trial for trial in self.waiting if trial.suggestion is not None]
        reference = {trial.trial_id for trial in baselines(self._plan)}
        known = reference | {trial.trial_id for trial in begun}
        choice = [trial for trial in self._plan.trials if trial.trial_id not in known]
        free = [trial for trial in choice if trial.trial_id not in self.statuses]
        left = max(0, min(self._plan.search.trials - (len(choice) - len(free)) - len(begun), len(free)))
        return sure + [*begun, *(free[i * len(free) // left] for i in range(left))][: self._limit]

    @property
    def planned(self) -> int:
        """All trials that this study will have, as far as anybody knows."""
        return len((self.asked & self.statuses.keys()) | {trial.trial_id for trial in self.expected})

    def _optuna(self) -> OptunaSearch:
        """Made when it is first needed: Optuna takes half a second to import, and the search writes its copy."""
        if self._search is None:
            from sweep.search.optuna_search import OptunaSearch

            self._search = OptunaSearch(self._plan, StudyPaths(self._folder).optuna_log)
            for row in sorted(self._told, key=lambda row: _number(row) or 0):
                self._search.tell(row)
        return self._search

    def _is_missing(self, trial: Trial) -> bool:
        status = self.statuses.get(trial.trial_id)
        if status == "failed":
            return self._retry_failed
        return status is None or (status == "pruned" and trial.early_stop is None)

    def _attempt(self, trial: Trial) -> int:
        return self._attempts.get(trial.trial_id, 0) + 1

    def _take(self, trial: Trial) -> bool:
        """Whether another study's result has been stored as this trial's."""
        row = self._cache.take(trial, self._attempt(trial)) if self._cache else None
        if row is None:
            return False
        self.taken += 1
        self.statuses[trial.trial_id] = row["status"]
        if self._plan.search:
            self._optuna().tell(row)
        return True

    def _begun_before(self, outcomes: Mapping[str, Mapping[str, Any]]) -> list[Trial]:
        """What a search chose and an interruption left unfinished, and on request what failed, with their numbers."""
        begun, paths = [], StudyPaths(self._folder)
        for trial in self._plan.trials:
            if trial.trial_id in outcomes:
                number = _number(outcomes[trial.trial_id])
            else:
                progress = TrialProgress.read(paths.checkpoint(trial.trial_id))
                number = progress.suggestion if progress else None
            if (number is not None or trial.trial_id in outcomes) and self._is_missing(trial):
                begun.append(replace(trial, suggestion=number))
        return sorted(begun, key=lambda trial: trial.suggestion or 0)


def _number(row: Mapping[str, Any]) -> int | None:
    """The how-many-th suggestion of its search a stored trial was, if it was one."""
    return None if pd.isna(row["suggestion"]) else int(row["suggestion"])
