"""Copies results of equal trials from the other studies of a results folder, instead of training again."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from sweep.errors import UserError, as_user_error
from sweep.executors.base import TrainJob
from sweep.files.code import code_hash
from sweep.schema import EpochRow, ResultRow
from sweep.store.parts import list_parts
from sweep.store.row_kinds import TRIALS
from sweep.store.study import read_curve, read_result, write_result
from sweep.worker.rows import planned_columns

# The planned columns that say what the source's numbers were measured with: they are copied.
_RESOURCES = ("cpus_per_trial", "gpus_per_trial")


class ResultCache:
    """The results that other studies hold. The studies are listed once, for the first trial.

    Args:
        results: the folder that holds the studies.
        study: the study that copies results, in this folder or elsewhere.
    """

    def __init__(self, results: Path, study: Path) -> None:
        self._results, self._study = results, study

    def take(self, job: TrainJob) -> dict[str, Any] | None:
        """Copy this trial's result from another study into this one. Return the row, or None if there is none.

        Results with an isolated measurement are preferred, then the first study by name. Planned columns, such as the
        labels, come from this study; measured ones, with the device and its share, come from the source.

        Raises UserError if the row cannot be stored.
        """
        found = [
            (study, *result)
            for study, number in self._attempts.get(job.job_id, ())
            if (result := _read_completed(study, job.job_id, number)) is not None
        ]
        if not found:
            return None
        study, row, curve = min(found, key=lambda one: one[1]["measured"] != "isolated")  # the first of several
        source = row["source"] or f"{study.name}/{job.job_id}.{row['attempt']}"
        own = {name: value for name, value in planned_columns(job).items() if name not in _RESOURCES}
        copied = ResultRow(**row | own | {"source": source})
        here = {"study": job.trial.study, "trial_id": job.job_id, "attempt": job.attempt}
        with as_user_error(self._study):
            write_result(self._study, copied, [EpochRow(**epoch | here) for epoch in curve])
        return asdict(copied)

    @cached_property
    def _attempts(self) -> dict[str, list[tuple[Path, int]]]:
        """The stored attempts in the other studies by trial_id, sorted by study and attempt."""
        stored = defaultdict(list)
        for study in sorted(self._results.glob("[!.]*/")):
            if self._study.exists() and study.samefile(self._study):
                continue
            try:
                names = list_parts(study, TRIALS)
            except (UserError, OSError):  # a damaged study must not stop this one
                continue
            for name in names:
                trial_id, _, number = name.removesuffix(".parquet").rpartition(".")
                if number.isdecimal():
                    stored[trial_id].append((study, int(number)))
        return {trial_id: sorted(places) for trial_id, places in stored.items()}


def _read_completed(study: Path, trial_id: str, attempt: int) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Return row and curve of an attempt that this code completed; None also for an incomplete file."""
    try:
        row, curve = read_result(study, trial_id, attempt), read_curve(study, trial_id, attempt)
    except (UserError, OSError):  # its compacted file was damaged since it was listed
        return None
    if row is None or curve is None or (row["trial_id"], row["status"]) != (trial_id, "completed"):
        return None
    if row["code_hash"] != code_hash():  # other code may give other numbers
        return None
    return row, curve
