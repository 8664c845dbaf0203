"""plan.json, and the folder that a plan's study has.

It is read as a Plan, or as an outline, which is much faster for thousands of trials.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from famba_core.errors import Problem
from famba_core.files import write_atomically
from sweep.errors import UserError, as_user_error, find_blocking_file
from sweep.files.checksum import CHECKSUM_PLACEHOLDER, verify_checksum, with_checksum
from sweep.files.names import is_safe_name
from sweep.grid.objectives import NUMERIC
from sweep.plan.model import Plan, PlanOutline
from sweep.store.layout import StudyPaths
from sweep.store.study import create_study


@dataclass(frozen=True, kw_only=True)
class _PlanFile(Plan):
    """A plan with the checksum that plan.json adds."""

    checksum: str = CHECKSUM_PLACEHOLDER


_PLAN, _PLAN_FILE, _OUTLINE = TypeAdapter(Plan), TypeAdapter(_PlanFile), TypeAdapter(PlanOutline)
P = TypeVar("P", Plan, PlanOutline)


def save_plan(folder: Path, plan: Plan) -> None:
    """Write or replace plan.json, and keep what another plan has replaced.

    Raises UserError if the folder cannot be written.
    """
    create_study(folder)
    paths, text = StudyPaths(folder), plan_to_json(plan).encode()
    with as_user_error(folder):
        earlier = paths.plan.read_bytes() if paths.plan.exists() else text
        if earlier != text:
            paths.plans.mkdir(exist_ok=True)
            write_atomically(paths.earlier_plan(hashlib.sha256(earlier).hexdigest()[:10]), earlier)
        write_atomically(paths.plan, text)


def read_plan(folder: Path) -> Plan:
    """Return the plan of a study. Raises UserError if plan.json cannot be read or is damaged."""
    return plan_from_json(_read_plan_json(folder), folder)


def read_plan_outline(folder: Path) -> PlanOutline:
    """Return the outline of a study's plan. Raises UserError as `read_plan`."""
    return _validated(_OUTLINE, _read_plan_json(folder), folder)


def plan_to_json(plan: Plan) -> str:
    """Return the text of plan.json, with its checksum."""
    return with_checksum(
        _PLAN_FILE.dump_json(_PlanFile(**{field.name: getattr(plan, field.name) for field in fields(plan)}), indent=2)
    ).decode()


def plan_from_json(text: str | bytes, folder: Path) -> Plan:
    """Return the plan that `plan_to_json` wrote. Raises UserError, naming `folder`, if the text is not a plan."""
    plan = _validated(_PLAN, text, folder)
    if not plan.trials:
        raise _damaged(folder, "it has no trial")
    if not plan.objectives or not set(plan.objectives) <= set(NUMERIC):
        raise _damaged(folder, f"its objectives are not measured columns: {', '.join(plan.objectives) or 'none'}")
    if wrong := set(plan.objectives.values()) - {"max", "min"}:
        raise _damaged(folder, f"its objectives must be max or min, not {', '.join(sorted(wrong))}")
    if plan.paper_table not in (None, 1, 2, 3):
        raise _damaged(folder, f"its paper_table is {plan.paper_table}, and the paper has tables 1, 2 and 3")
    return plan


def _read_plan_json(folder: Path) -> bytes:
    plan = StudyPaths(folder).plan
    try:
        return plan.read_bytes()
    except OSError as error:
        reason = f"{blocking} is not a folder" if (blocking := find_blocking_file(folder)) else error.strerror
        sentence = f"cannot be read: {reason}; a study's folder looks like results/<study>-<profile>"
        raise UserError([Problem(str(folder), plan.name, sentence)]) from None


def _validated(adapter: TypeAdapter[P], text: str | bytes, folder: Path) -> P:
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


def study_folder(out: Path, plan: Plan) -> Path:
    """Return the absolute path of a plan's study in the results folder `out`. Creates nothing.

    Raises UserError if `out` is inside a study, or if the folder holds another study (renamed or copied).
    """
    results = Path(os.path.realpath(out))
    folder = results / f"{plan.study}-{plan.profile}"
    if blocking := find_blocking_file(folder):
        raise UserError(f"{blocking} is not a folder; name another one for the results, or move it away", "--out")
    around, stored = None, None
    try:
        for paths in map(StudyPaths, (results, *results.parents)):
            if paths.plan.is_file() and paths.trials.is_dir():
                around = paths.root
                break
        with contextlib.suppress(UserError):  # damaged, or not there yet: the next run writes it
            stored = read_plan_outline(folder)
    except OSError as error:
        raise UserError(f"{out} cannot be used: {error.strerror}", "--out") from error
    if around:
        sentence = f"{out} is in a study's folder, {around}; name one beside it, such as {around.parent}"
        raise UserError(sentence, "--out")
    if stored and (stored.study, stored.profile) != (plan.study, plan.profile):
        sentence = (
            f"holds study {stored.study!r} with profile {stored.profile!r}, not {plan.study!r} with {plan.profile!r}; "
            "rename that folder, or choose another one with --out"
        )
        raise UserError(sentence, folder)
    return folder
