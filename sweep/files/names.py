"""Names that become files and folders of a study."""

from __future__ import annotations

import re

_SAFE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def is_safe_name(name: object) -> bool:
    """True for letters, digits, "_", "-" and (except at the start) ".": neither a path nor a hidden file.

    Plans and rows may come from other people, and checkpoint folders are removed by the ids in them.
    """
    return isinstance(name, str) and _SAFE.fullmatch(name) is not None
