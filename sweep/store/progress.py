"""The progress of an unfinished trial: a small file next to its checkpoint, read by `status` and by a resumed trial."""

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
    """Progress of one attempt, written when it starts and after each epoch."""

    attempt: int
    epoch: int  # the last that ended; 0 during the first
    epochs: int
    started_at: str  # UTC, ISO 8601
    wall_time_s: float  # spent on this attempt, without interruptions
    driver: str = ""  # token of the driver that started the worker
    suggestion: int | None = None  # 1-based index among the search's suggestions

    @classmethod
    def begin(cls, attempt: int, epochs: int, driver: str = "") -> TrialProgress:
        """Return the progress of an attempt that starts now."""
        started_at = dt.datetime.now(dt.UTC).isoformat()
        return cls(attempt=attempt, epoch=0, epochs=epochs, started_at=started_at, wall_time_s=0.0, driver=driver)

    @classmethod
    def read(cls, checkpoint: Path) -> TrialProgress | None:
        """Return the progress in a checkpoint folder; None if there is none or it is damaged, as it only informs."""
        try:
            progress = _PROGRESS.validate_json((checkpoint / PROGRESS_FILE).read_bytes(), strict=True)
            dt.datetime.fromisoformat(progress.started_at)
        except (OSError, ValueError):
            return None
        return progress

    def write(self, checkpoint: Path) -> None:
        """Write the progress to a checkpoint folder. Raises OSErrors."""
        checkpoint.mkdir(parents=True, exist_ok=True)
        write_atomically(checkpoint / PROGRESS_FILE, json.dumps(asdict(self)).encode())


_PROGRESS = TypeAdapter(TrialProgress)
