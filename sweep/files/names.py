"""Names that become files and folders of a study."""

from __future__ import annotations

import re

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def is_safe_name(name: object) -> bool:
    """Whether a name is letters, digits, "_", "-" and ".", not first: no path out of a folder, no hidden file.

    Rows and plans may come from anywhere, and the folders of checkpoints that are removed are named by their ids.
    """
    return isinstance(name, str) and _PLAIN.fullmatch(name) is not None
