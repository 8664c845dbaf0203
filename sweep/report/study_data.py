"""What a report is drawn from: a study's plan and stored rows, read once, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from sweep.plan.model import Plan, candidate_ids
from sweep.plan.plan_file import read_plan
from sweep.store.study import read_epochs, read_rows, select_outcomes


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyData:
    """A study's plan, and the stored attempts at its trials."""

    plan: Plan
    rows: pd.DataFrame  # one per attempt, as `read_rows` returns them
    epochs: pd.DataFrame  # the learning curves, as `read_epochs` returns them
    damaged: tuple[Path, ...] = ()  # files that could not be read, relative to the study's folder
    unplanned: int = 0  # stored trials that the plan no longer asks for: left out of rows and epochs

    @classmethod
    def read(cls, folder: Path) -> StudyData:
        """Read a study. Rows of trials that an edited grid no longer asks for are left out.

        Raises UserError if the folder holds no plan.
        """
        plan = read_plan(folder)
        rows, damaged_rows = read_rows(folder)
        epochs, damaged_epochs = read_epochs(folder)
        planned = {trial.trial_id for trial in plan.trials}
        return cls(
            plan=plan,
            rows=rows[rows["trial_id"].isin(planned)],
            epochs=epochs[epochs["trial_id"].isin(planned)],
            unplanned=rows.loc[~rows["trial_id"].isin(planned), "trial_id"].nunique(),
            damaged=tuple(path.relative_to(folder) for path in damaged_rows + damaged_epochs),
        )

    @cached_property
    def outcomes(self) -> pd.DataFrame:
        """The attempt that counts for each stored trial, by trial_id."""
        return select_outcomes(self.rows)

    @cached_property
    def completed(self) -> pd.DataFrame:
        """The outcomes of completed trials: only these enter tables and figures."""
        return self.outcomes[self.outcomes["status"] == "completed"].reset_index()

    @cached_property
    def candidates(self) -> frozenset[str]:
        """The ids of the trials that the search chooses from; empty without a search."""
        return candidate_ids(self.plan)

    @cached_property
    def trials_to_run(self) -> int:
        """Number of trials that the finished study will have: all, or the baselines and those of the search."""
        chosen = self.plan.search.tries(len(self.candidates)) if self.plan.search else 0
        return len(self.plan.trials) - len(self.candidates) + chosen

    @cached_property
    def is_isolated(self) -> bool:
        """True if every completed trial has an isolated measurement of its training step."""
        return len(self.completed) > 0 and bool((self.completed["measured"] == "isolated").all())

    def distinct(self, column: str) -> list[str]:
        """Return the values of a column among the completed trials, sorted."""
        return sorted(self.completed[column].dropna().unique())

    def count(self, status: str) -> int:
        """Return the number of trials with this outcome."""
        return int((self.outcomes["status"] == status).sum())
