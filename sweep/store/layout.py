"""The names of all files and folders of a study; what each of them holds is listed in sweep/store/__init__.py."""

from __future__ import annotations

import re
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]+\.tmp")  # as famba_core.files.write_atomically names them


class _Below:
    """A path below the study's folder, made when it is read: most callers need one of many."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, paths: StudyPaths, owner: type) -> Path:
        return paths.root / self._name


class StudyPaths:
    """Paths of the files and folders in a study's folder, whether they exist or not."""

    plan = _Below("plan.json")
    plans = _Below("plans")
    trials = _Below("trials")
    epochs = _Below("epochs")
    measurements = _Below("measurements")  # also holds the progress of the measuring phase while it lasts
    compacted = _Below("compacted")
    manifest = _Below("manifest.json")
    checkpoints = _Below("checkpoints")
    rungs = _Below("rungs")
    quarantine = _Below("quarantine")
    logs = _Below("logs")
    folded_log = _Below("logs/folded.txt")
    run_log = _Below("run.log")
    optuna_log = _Below("optuna.log")
    report = _Below("report")
    lock = _Below("driver.lock")

    def __init__(self, root: Path) -> None:
        self.root = root

    def earlier_plan(self, digest: str) -> Path:
        """Return the file of a plan that another one has replaced."""
        return self.plans / f"{digest}.json"

    def checkpoint(self, trial_id: str) -> Path:
        """Return the folder of an unfinished trial's checkpoint."""
        return self.checkpoints / trial_id

    def rung(self, group: str, epoch: int) -> Path:
        """Return the folder of one rung of a group of trials."""
        return self.rungs / group / str(epoch)

    def log(self, name: str) -> Path:
        """Return the file of one traceback."""
        return self.logs / f"{name}.txt"

    def node_check(self, name: str) -> Path:
        """Return the file of one run by which nodes show that they see this folder."""
        return self.root / f".node-check-{name}"

    def list_temporaries(self) -> list[Path]:
        """List the temporary files that killed processes have left; those of other programs are not ours to remove."""
        folders = (self.plans, self.trials, self.epochs, self.measurements, self.compacted, self.checkpoints, self.logs)
        nested = (*self.checkpoints.glob("*"), *self.rungs.glob("*/*"))
        found = (file for folder in (self.root, *folders, *nested) for file in folder.glob(".*.tmp"))
        return [file for file in found if _TEMPORARY.fullmatch(file.name)]


def is_compacted_file(file: Path) -> bool:
    """True if a study's file is its manifest, a compacted file or the copy of one."""
    return file == StudyPaths(file.parent).manifest or file.parent == StudyPaths(file.parent.parent).compacted
