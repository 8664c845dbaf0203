"""What `status` needs of a plan: a plan of thousands of trials takes seconds to check in full, this some hundredths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from sweep.grid.search_spec import Search
from sweep.plan import validated


@dataclass(frozen=True, kw_only=True)
class TrialOutline:
    """One planned trial."""

    trial_id: str


@dataclass(frozen=True, kw_only=True)
class CaseOutline:
    """One row that the grid asks for."""

    trial_id: str
    baseline: bool


@dataclass(frozen=True, kw_only=True)
class PlanOutline:
    """Some of the fields of a Plan."""

    study: str
    profile: str
    trials: tuple[TrialOutline, ...]
    cases: tuple[CaseOutline, ...]
    search: Search | None = None


_OUTLINE = TypeAdapter(PlanOutline)


def plan_outline_from_json(text: bytes, folder: Path) -> PlanOutline:
    """The outline of the plan that plan.json holds. Raises UserError as `plan_from_json`."""
    return validated(_OUTLINE, text, folder)
