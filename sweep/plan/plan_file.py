"""plan.json: written and read as a Plan, or read as an outline, which is much faster for thousands of trials."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from sweep.errors import UserError
from sweep.files.checksum import CHECKSUM_PLACEHOLDER, verify_checksum, with_checksum
from sweep.files.names import is_safe_name
from sweep.grid.objectives import NUMERIC
from sweep.grid.search import Search
from sweep.plan.model import Plan


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
    """The fields of a Plan that `status` needs. Reading only these takes hundredths of a second, not seconds."""

    study: str
    profile: str
    trials: tuple[TrialOutline, ...]
    cases: tuple[CaseOutline, ...]
    search: Search | None = None


_OUTLINE = TypeAdapter(PlanOutline)


def plan_outline_from_json(text: bytes, folder: Path) -> PlanOutline:
    """Return the outline of the plan in plan.json. Raises UserError as `plan_from_json`."""
    return validated(_OUTLINE, text, folder)


@dataclass(frozen=True, kw_only=True)
class _PlanFile(Plan):
    """plan.json."""

    checksum: str = CHECKSUM_PLACEHOLDER


_PLAN, _PLAN_FILE = TypeAdapter(Plan), TypeAdapter(_PlanFile)


P = TypeVar("P", "Plan", "PlanOutline")


def plan_to_json(plan: Plan) -> str:
    """Return the text of plan.json, with its checksum."""
    return with_checksum(
        _PLAN_FILE.dump_json(_PlanFile(**{field.name: getattr(plan, field.name) for field in fields(plan)}), indent=2)
    ).decode()


def plan_from_json(text: str | bytes, folder: Path) -> Plan:
    """Return the plan that `plan_to_json` wrote. Raises UserError, naming `folder`, if the text is not a plan."""
    plan = validated(_PLAN, text, folder)
    if not plan.trials:
        raise _damaged(folder, "it has no trial")
    if not plan.objectives or not set(plan.objectives) <= set(NUMERIC):
        raise _damaged(folder, f"its objectives are not measured columns: {', '.join(plan.objectives) or 'none'}")
    if wrong := set(plan.objectives.values()) - {"max", "min"}:
        raise _damaged(folder, f"its objectives must be max or min, not {', '.join(sorted(wrong))}")
    if plan.paper_table not in (None, 1, 2, 3):
        raise _damaged(folder, f"its paper_table is {plan.paper_table}, and the paper has tables 1, 2 and 3")
    return plan


def validated(adapter: TypeAdapter[P], text: str | bytes, folder: Path) -> P:
    """Return a plan, or its outline, from the text of plan.json. Raises UserError if the text is damaged."""
    if verify_checksum(text.encode() if isinstance(text, str) else text) is False:
        raise _damaged(folder, "it is not as it was written")
    try:
        plan = adapter.validate_json(text, strict=True)
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(str(part) for part in detail["loc"])
        raise _damaged(folder, f"{place + ': ' if place else ''}{detail['msg']}") from error
    ids = {trial.trial_id for trial in plan.trials}
    if outside := sorted(trial_id for trial_id in ids if not is_safe_name(trial_id)):
        raise _damaged(folder, f"it has ids that cannot name a folder: {', '.join(map(repr, outside))}")
    if orphans := {case.trial_id for case in plan.cases} - ids:
        raise _damaged(folder, f"it has cases without a trial: {', '.join(sorted(orphans))}")
    return plan


def _damaged(folder: Path, finding: str) -> UserError:
    sentence = f"plan.json is damaged: {finding}; remove it, and the next run of the grid writes it again"
    return UserError(sentence, folder)
