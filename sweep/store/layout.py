"""The names of all files and folders of a study; what each of them holds is listed in sweep/store/__init__.py."""

from __future__ import annotations

from pathlib import Path


class StudyPaths:
    """Paths of the files and folders in a study's folder, whether they exist or not."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.plan = root / "plan.json"
        self.trials = root / "trials"
        self.epochs = root / "epochs"
        self.measurements = root / "measurements"  # also holds the progress of the measuring phase while it lasts
        self.compacted = root / "compacted"
        self.manifest = root / "manifest.json"
        self.checkpoints = root / "checkpoints"
        self.rungs = root / "rungs"
        self.quarantine = root / "quarantine"
        self.logs = root / "logs"
        self.folded_log = self.logs / "folded.txt"
        self.run_log = root / "run.log"
        self.optuna_log = root / "optuna.log"
        self.report = root / "report"
        self.lock = root / "driver.lock"

    def checkpoint(self, trial_id: str) -> Path:
        """Return the folder of an unfinished trial's checkpoint."""
        return self.checkpoints / trial_id

    def rung(self, group: str, epoch: int) -> Path:
        """Return the folder of one rung of a group of trials."""
        return self.rungs / group / str(epoch)

    def log(self, name: str) -> Path:
        """Return the file of one traceback."""
        return self.logs / f"{name}.txt"

    def list_temporaries(self) -> list[Path]:
        """List the temporary files that killed processes have left."""
        folders = (self.trials, self.epochs, self.measurements, self.compacted, self.checkpoints, self.logs)
        nested = (*self.checkpoints.glob("*"), *self.rungs.glob("*/*"))
        return [file for folder in (self.root, *folders, *nested) for file in folder.glob(".*.tmp")]


def is_compacted_file(file: Path) -> bool:
    """True if a study's file is its manifest, a compacted file or the copy of one."""
    return file == StudyPaths(file.parent).manifest or file.parent == StudyPaths(file.parent.parent).compacted
