"""SweepSpec -> Plan: every trial with its identity, schedule and price, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from famba_core.config import AugmentConfig, DataConfig, FusionConfig, ModelConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """One training run: everything the worker needs, and nothing that a second machine would decide otherwise."""

    trial_id: str  # readable labels and a hash of what defines the result
    study: str
    profile: str
    model: ModelConfig
    fusion: FusionConfig  # the labels of the first case that asks for this trial, and the schedule that runs
    data: DataConfig
    augment: AugmentConfig
    train: TrainConfig
    cpus_per_trial: int  # threads, on every executor: sums in another order would change the numbers
    gpus_per_trial: float


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row that the grid asks for. Different cases with one schedule share a trial."""

    backbone: str
    strategy: str
    start_layer: int | None
    stop_layer: int | None
    r: int | None
    order: str
    weighting: str
    seed: int
    baseline: bool
    trial_id: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study will run, as plan.json holds it."""

    study: str
    profile: str
    paper_table: int | None
    objectives: dict[str, str]  # column -> "max" or "min"
    trials: tuple[TrialPlan, ...]  # baselines first, then the cases in the grid's order
    cases: tuple[Case, ...]
