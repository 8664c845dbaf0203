"""Writes a copy of a search for optuna-dashboard: Optuna's journal file, which this program never reads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial

from famba_core.files import write_atomically

Direction = Literal["minimize", "maximize"]


class _MemoryBackend(BaseJournalBackend):
    """Optuna's journal in memory. A file as its backend would have to be locked, read back and trusted."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs.extend(json.loads(json.dumps(logs)))  # as a file would return them


class DashboardLog:
    """A file of ended trials that Optuna's JournalFileBackend can open.

    The first trial replaces the file, later ones are appended. It holds no running trials, so a crash leaves none
    behind. If it cannot be written, there is a warning and the search continues, which does not need it.
    """

    def __init__(self, file: Path, study: str, directions: Sequence[Direction], columns: Sequence[str]):
        self._file, self._backend, self._saved = file, _MemoryBackend(), 0
        self._study = optuna.create_study(
            storage=JournalStorage(self._backend), study_name=study, directions=list(directions)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.set_metric_names(list(columns))

    def add(self, trial: FrozenTrial) -> None:
        """Append a trial that has ended."""
        self._study.add_trial(trial)
        try:
            self._save()
        except OSError as error:
            self._saved = 0  # the file may end in the middle of a line
            warnings.warn(f"{self._file}: cannot be written: {error.strerror}", stacklevel=2)

    def _save(self) -> None:
        if self._saved and self._file.exists():
            with open(self._file, "ab") as file:
                file.write(_encoded(self._backend.logs[self._saved :]))
        else:
            write_atomically(self._file, _encoded(self._backend.logs))
        self._saved = len(self._backend.logs)


def _encoded(logs: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
