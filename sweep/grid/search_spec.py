"""How a search chooses among a grid's schedules, and which trials it ends early."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from famba_core.config import ConfigError

Sampler = Literal["tpe", "nsga2", "random"]


@dataclass(frozen=True, kw_only=True)
class Search:
    """An Optuna search over the schedules that a grid's space and budget allow; each is tried at most once."""

    sampler: Sampler = "tpe"
    trials: int = 40  # schedules to try, baselines apart
    seed: int = 0  # of the sampler; with one trial at a time the search repeats itself exactly

    def __post_init__(self) -> None:
        problems = [
            (name, f"must be at least {least}, not {getattr(self, name)}")
            for name, least in (("trials", 1), ("seed", 0))
            if getattr(self, name) < least
        ]
        if problems:
            raise ConfigError(problems)

    def tries(self, candidates: int) -> int:
        """How many of so many schedules it tries: all, where it may try more than there are."""
        return min(self.trials, candidates)


class PlannedCase(Protocol):
    """What tells a candidate of a search from a baseline."""

    @property
    def trial_id(self) -> str: ...
    @property
    def baseline(self) -> bool: ...


def candidates(cases: Collection[PlannedCase]) -> frozenset[str]:
    """The ids of the trials that a search chooses from: of no baseline."""
    return frozenset(case.trial_id for case in cases) - {case.trial_id for case in cases if case.baseline}


@dataclass(frozen=True, kw_only=True)
class EarlyStop:
    """ASHA, asynchronous successive halving: at each rung the best 1 / reduction_factor so far go on.

    Rungs are at min_epochs, min_epochs * reduction_factor, ... epochs. Baselines always train to their end.
    """

    min_epochs: int = 1  # the first rung
    reduction_factor: int = 3

    def __post_init__(self) -> None:
        problems = [
            (name, f"must be at least {least}, not {getattr(self, name)}")
            for name, least in (("min_epochs", 1), ("reduction_factor", 2))
            if getattr(self, name) < least
        ]
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """A bound on a result's column, such as peak_memory_mib <= 6000, that a search should meet."""

    column: str
    relation: Literal["<=", ">="]
    bound: float

    def __str__(self) -> str:
        return f"{self.column} {self.relation} {self.bound:g}"

    def violation(self, value: float) -> float:
        """How far the value is beyond the bound, in the column's unit; 0 or less where it meets the bound."""
        return value - self.bound if self.relation == "<=" else self.bound - value
