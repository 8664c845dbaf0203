"""How far a trial has come: a small file beside its checkpoint, for `status` and for the clock of a resumed trial."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from famba_core.files import write_atomically

PROGRESS_FILE = "progress.json"


@dataclass(frozen=True, kw_only=True)
class TrialProgress:
    """What an interrupted attempt leaves for its continuation. Written when a trial starts and after each epoch."""

    attempt: int
    epoch: int  # the last one that ended; 0 in the first
    epochs: int
    started_at: str  # UTC, ISO 8601
    wall_time_s: float  # spent on this attempt, interruptions left out
    driver: str = ""  # token of the driver under which it runs
    suggestion: int | None = None  # the trial's, of a search

    @classmethod
    def begin(cls, attempt: int, epochs: int, driver: str = "") -> TrialProgress:
        """An attempt that starts now."""
        started_at = dt.datetime.now(dt.UTC).isoformat()
        return cls(attempt=attempt, epoch=0, epochs=epochs, started_at=started_at, wall_time_s=0.0, driver=driver)

    @classmethod
    def read(cls, checkpoint: Path) -> TrialProgress | None:
        """None where no attempt has started, or the file is damaged: it only informs."""
        try:
            progress = _PROGRESS.validate_json((checkpoint / PROGRESS_FILE).read_bytes(), strict=True)
            dt.datetime.fromisoformat(progress.started_at)
        except (OSError, ValueError):
            return None
        return progress

    def write(self, checkpoint: Path) -> None:
        checkpoint.mkdir(parents=True, exist_ok=True)
        write_atomically(checkpoint / PROGRESS_FILE, json.dumps(asdict(self)).encode())


_PROGRESS = TypeAdapter(TrialProgress)
