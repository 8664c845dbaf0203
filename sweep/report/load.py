"""Reads the rows of one study, or of all studies below a folder, as one data frame."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from sweep.errors import UserError
from sweep.plan.plan_file import read_plan_outline
from sweep.store.layout import StudyPaths
from sweep.store.study import StoredRows, check_is_study


def load(folder: str | os.PathLike[str], read: Callable[[Path], StoredRows]) -> pd.DataFrame:
    """Return what `read` reads of a study or of all studies below a folder, and the columns `planned` and `folder`.

    Warns the caller's caller about files that cannot be read. Raises UserError if there is no study.
    """
    studies = list(_list_studies(Path(folder)))
    if not studies:
        check_is_study(Path(folder))
    frames, damaged = [], []
    for study in studies:
        rows, unreadable = read(study)
        damaged += unreadable
        frames.append(rows.assign(planned=_planned(study, rows["trial_id"]), folder=str(study)))
    if damaged:
        names = ", ".join(str(part) for part in damaged)
        warnings.warn(f"left out {len(damaged)} damaged part(s), as if not run: {names}", stacklevel=3)
    return pd.concat([rows for rows in frames if len(rows)] or frames[:1], ignore_index=True)


def _list_studies(folder: Path) -> Iterator[Path]:
    """Yield the folder if it is a study, otherwise the studies below it, by name; hidden folders are passed over."""
    for path, folders, _ in os.walk(folder):
        if StudyPaths(Path(path)).trials.is_dir():
            yield Path(path)
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _planned(study: Path, trial_ids: pd.Series[str]) -> pd.Series[bool]:
    """Return which trials the study's plan asks for; missing (NA) if its plan cannot be read."""
    try:
        ids = {trial.trial_id for trial in read_plan_outline(study).trials}
    except UserError:
        return pd.Series(pd.NA, trial_ids.index, dtype="boolean")
    return trial_ids.isin(ids).astype("boolean")
