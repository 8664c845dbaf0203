"""The one family of errors that a user can cause: a clear sentence each, exit code 2, no traceback."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it stands and what would be right."""

    where: str  # file, folder or option
    key: str  # path inside a file, such as "cases[3].start_layer"; "" for the file as a whole
    sentence: str  # the rule, the value found and the valid choices

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.sentence) if part)


class UserError(Exception):
    """Input that cannot be used. Holds every problem found, not only the first."""

    def __init__(self, problems: Iterable[Problem] | str):
        self.problems = (Problem("", "", problems),) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
