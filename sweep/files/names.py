"""Names that become files and folders of a study."""

from __future__ import annotations

import os
import re
from pathlib import Path

_SAFE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def is_safe_name(name: object) -> bool:
    """True for letters, digits, "_", "-" and (except at the start) ".": neither a path nor a hidden file.

    Plans and rows may come from other people, and checkpoint folders are removed by the ids in them.
    """
    return isinstance(name, str) and _SAFE.fullmatch(name) is not None


def list_names(folder: Path) -> list[str]:
    """Return the names in a folder without those that begin with a dot, which are not a study's. Raises OSErrors.

    File managers, network file systems and copying programs leave such files, often under a result's own suffix:
    `._x.parquet`, `.nfs0001`, `.DS_Store`.
    """
    return [name for name in os.listdir(folder) if not name.startswith(".")]
