"""Finds the folder of a plan's study, and refuses a folder that belongs to another study."""

from __future__ import annotations

import os
from pathlib import Path

from sweep.errors import UserError
from sweep.plan.model import Plan
from sweep.plan.plan_file import read_plan_outline
from sweep.store.layout import StudyPaths


def study_folder(out: Path, plan: Plan) -> Path:
    """Return the absolute path of a plan's study in the results folder `out`. Creates nothing.

    Raises UserError if `out` is inside a study, or if the folder holds another study (renamed or copied).
    """
    results = Path(os.path.realpath(out))
    folder = results / f"{plan.study}-{plan.profile}"
    try:
        around = next((each for each in (results, *results.parents) if _is_study(each)), None)
        stored = _plan_of(folder)
    except OSError as error:
        raise UserError(f"{out} cannot be used: {error.strerror}", "--out") from error
    if around:
        sentence = f"{out} is in a study's folder, {around}; name one beside it, such as {around.parent}"
        raise UserError(sentence, "--out")
    if stored and stored != (plan.study, plan.profile):
        study, profile = stored
        sentence = (
            f"holds study {study!r} with profile {profile!r}, not {plan.study!r} with {plan.profile!r}; rename that "
            "folder, or choose another one with --out"
        )
        raise UserError(sentence, folder)
    return folder


def _is_study(folder: Path) -> bool:
    return StudyPaths(folder).plan.is_file() and StudyPaths(folder).trials.is_dir()


def _plan_of(folder: Path) -> tuple[str, str] | None:
    """Return study and profile of the plan in a folder; None if it is damaged, as the next run writes it again."""
    try:
        outline = read_plan_outline(folder)
    except UserError:
        return None
    return outline.study, outline.profile
