"""A plan: the trials that a study will run, and the cases that its grid asks for."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from famba_core.config import AugmentConfig, DataConfig, FusionConfig, FusionSchedule, ModelConfig, TrainConfig
from sweep.grid.budget import case_label
from sweep.grid.cases import CASE_KEYS
from sweep.grid.objectives import Constraint
from sweep.grid.resources import Pool
from sweep.grid.search import EarlyStop, Search


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run: everything that defines its result, and nothing that a second machine would choose."""

    trial_id: str  # readable parts and a hash of what defines the result
    study: str
    profile: str
    model: ModelConfig
    fusion: FusionSchedule
    data: DataConfig
    data_fingerprint: str | None = None  # of the images; None for data sets that a library ships
    augment: AugmentConfig
    train: TrainConfig
    cpus_per_trial: int  # threads, equal on every executor: sums in another order would change the numbers
    gpus_per_trial: float
    accelerator_type: str | None = None  # Ray's name of the required GPU type
    early_stop: EarlyStop | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row that the grid asks for. Cases with equal schedules share a trial."""

    backbone: str
    strategy: str
    start_layer: int | None
    stop_layer: int | None
    r: int | None  # None where a budget gives layers different r's, and where nothing fuses
    order: str
    weighting: str
    seed: int
    baseline: bool
    trial_id: str

    @property
    def labels(self) -> FusionConfig:
        return FusionConfig(**{name: getattr(self, name) for name in CASE_KEYS})

    @property
    def label(self) -> str:
        """Return the case in a few words, such as "upper from layer 6, r 9"."""
        return case_label(self.labels)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study will run, as plan.json holds it."""

    study: str
    profile: str
    paper_table: int | None
    objectives: dict[str, str]  # column -> "max" or "min"
    trials: tuple[Trial, ...]  # in running order: by seed, baselines before the rest, each with the longest first
    cases: tuple[Case, ...]  # by seed, then backbone; baselines before the cases in the grid's order
    search: Search | None = None  # chooses among the candidates; without a search all trials run
    constraints: tuple[Constraint, ...] = ()
    pool: Pool = field(default_factory=Pool)

    @property
    def baselines(self) -> tuple[Trial, ...]:
        """Return the trials that others are compared with."""
        wanted = {case.trial_id for case in self.cases if case.baseline}
        return tuple(trial for trial in self.trials if trial.trial_id in wanted)

    @property
    def candidates(self) -> tuple[Trial, ...]:
        """Return the trials that a search chooses from: all but the baselines. Empty without a search."""
        ids = candidate_ids(self)
        return tuple(trial for trial in self.trials if trial.trial_id in ids)

    @functools.cached_property
    def first_cases(self) -> Mapping[str, Case]:
        """Return the first case that asks for each trial, by trial_id."""
        return {case.trial_id: case for case in reversed(self.cases)}


@dataclass(frozen=True, kw_only=True)
class TrialOutline:
    """One planned trial of an outline."""

    trial_id: str


@dataclass(frozen=True, kw_only=True)
class CaseOutline:
    """One row that the grid asks for, in an outline."""

    trial_id: str
    baseline: bool


@dataclass(frozen=True, kw_only=True)
class PlanOutline:
    """The fields of a Plan that `status` needs. Reading only these takes hundredths of a second, not seconds."""

    study: str
    profile: str
    trials: tuple[TrialOutline, ...]
    cases: tuple[CaseOutline, ...]
    search: Search | None = None


def candidate_ids(plan: Plan | PlanOutline) -> frozenset[str]:
    """Return the ids of the trials that a search chooses from: all but the baselines. Empty without a search."""
    if plan.search is None:
        return frozenset()
    baselines = {case.trial_id for case in plan.cases if case.baseline}
    return frozenset(case.trial_id for case in plan.cases) - baselines
