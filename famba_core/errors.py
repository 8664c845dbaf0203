"""What is wrong with a configuration, all of it at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


class ConfigError(ValueError):
    """Values that cannot work. `problems` holds every (field, sentence) found, not only the first."""

    def __init__(self, problems: Iterable[tuple[str, str]]):
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{field}: {sentence}" for field, sentence in self.problems))


def reject(*rules: tuple[str, bool, str]) -> None:
    """Raise one ConfigError for all rules (field, is broken, sentence) that are broken."""
    problems = [(field, sentence) for field, broken, sentence in rules if broken]
    if problems:
        raise ConfigError(problems)


def check_types(config: Any) -> None:
    """Raise one ConfigError for every field whose value is not of its annotated type, or is not finite."""
    values = ((name, hint, getattr(config, name)) for name, hint in _hints(config.__class__).items())
    broken = [
        (name, f"must be {_words(hint)}, not {value!r}") for name, hint, value in values if not _fits(value, hint)
    ]
    if broken:
        raise ConfigError(broken)


@functools.cache
def _hints(config_type: type) -> dict[str, Any]:
    return get_type_hints(config_type)


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str)  # which one is the field's own rule
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, int) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_words(option) for option in get_args(hint))
    if get_origin(hint) is tuple:
        return "whole numbers"
    names = {int: "a whole number", float: "a finite number", bool: "true or false", NoneType: "nothing"}
    return names.get(hint, "text")
