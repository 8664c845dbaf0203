"""TODO."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

from famba_core.config import AugmentConfig, DataConfig, FusionConfig, ModelConfig, TrainConfig
from sweep.grid.budget import case_label
from sweep.grid.cases import CASE_KEYS
from sweep.grid.objectives import Constraint
from sweep.grid.resources import Pool
from sweep.grid.search import EarlyStop, Search


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run: everything the worker needs, and nothing that a second machine would decide otherwise."""

    trial_id: str  # readable parts and a hash, both of what defines the result
    study: str
    profile: str
    model: ModelConfig
    fusion: FusionConfig  # the labels of the first case that asks for this trial, and the schedule that runs
    data: DataConfig
    data_fingerprint: str | None = None  # of the images; None for those that come with a library
    augment: AugmentConfig
    train: TrainConfig
    cpus_per_trial: int  # threads, on every executor: sums in another order would change the numbers
    gpus_per_trial: float
    accelerator_type: str | None = None  # Ray's name of the GPU that it must get
    early_stop: EarlyStop | None = None
    suggestion: int | None = None  # of a search: its how many-th trial, from 1; set when it is suggested


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row that the grid asks for. Different cases with one schedule share a trial."""

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
    def label(self) -> str:
        """The case in a few words, such as "upper from layer 6, r 9"."""
        return case_label(FusionConfig(**{name: getattr(self, name) for name in CASE_KEYS}))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study will run, as plan.json holds it."""

    study: str
    profile: str
    paper_table: int | None
    objectives: dict[str, str]  # column -> "max" or "min"
    trials: tuple[Trial, ...]  # by seed, then backbone; baselines before the cases in the grid's order
    cases: tuple[Case, ...]  # in the same order
    search: Search | None = None  # chooses among the trials that are no baseline; without one, all of them run
    constraints: tuple[Constraint, ...] = ()
    pool: Pool = field(default_factory=Pool)


def baselines(plan: Plan) -> tuple[Trial, ...]:
    """The trials that others are compared with."""
    wanted = {case.trial_id for case in plan.cases if case.baseline}
    return tuple(trial for trial in plan.trials if trial.trial_id in wanted)


class PlannedCase(Protocol):
    """What tells a candidate of a search from a baseline."""

    @property
    def trial_id(self) -> str: ...
    @property
    def baseline(self) -> bool: ...


def candidates(cases: Collection[PlannedCase]) -> frozenset[str]:
    """The ids of the trials that a search chooses from: of no baseline."""
    return frozenset(case.trial_id for case in cases) - {case.trial_id for case in cases if case.baseline}
