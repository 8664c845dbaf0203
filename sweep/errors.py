"""What a user did wrong: a clear sentence for each problem, exit code 2, no traceback."""

from __future__ import annotations

from collections.abc import Iterable

from famba_core.errors import ConfigError, Problem


class UserError(ConfigError):
    """Input that cannot be used. Made of problems, or of one sentence about `where` (file, folder or option)."""

    separator = "\n"

    def __init__(self, problems: Iterable[Problem] | str, where: object = ""):
        super().__init__([Problem(str(where), "", problems)] if isinstance(problems, str) else problems)
