"""The errors that a user can cause, and the checks of a configuration: every problem is reported at once."""

from __future__ import annotations

import difflib
import functools
import math
import operator
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

# the bounds that a setting can declare
_HOLDS: dict[str, Callable[[Any, Any], bool]] = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it is and what would be right."""

    where: str  # file, folder or option; "" for a value that comes from Python
    key: str  # field, or path inside a file such as "cases[3].start_layer"; "" for the file as a whole
    sentence: str  # the rule, the value found and the valid choices

    def __str__(self) -> str:
        return ": ".join(text for text in (self.where, self.key, self.sentence) if text)


class ConfigError(ValueError):
    """Values that cannot work. `problems` holds every problem found, not only the first."""

    separator = "; "

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        super().__init__(self.separator.join(map(str, self.problems)))

    @classmethod
    def of(cls, key: str, *sentences: str) -> Self:
        """Return the error for one field."""
        return cls(Problem("", key, sentence) for sentence in sentences)

    def at(self, where: object, prefix: str = "") -> list[Problem]:
        """Return the problems of values that come from the file `where`, under the key `prefix`."""
        return [
            Problem(str(where), ".".join(name for name in (prefix, problem.key) if name), problem.sentence)
            for problem in self.problems
        ]


def setting(default: T, doc: str, **rules: Any) -> T:
    """Declare a dataclass field: its default, its documentation, and the rules that `check_config` applies.

    Args:
        rules: bounds of a number (`at_least`, `above`, `at_most`, `below`), or `choices`, a collection of names. A
            Literal declares its choices itself. Other entries are metadata for the class's own use.
    """
    declared: T = field(default=default, metadata={"doc": doc, **rules})
    return declared


def check_config(config: Any, *rules: tuple[str, bool, str]) -> None:
    """Raise one ConfigError for the fields of the wrong type; then one for every broken rule.

    Args:
        rules: (field, holds, sentence), beside the bounds and choices that the fields declare.
    """
    hints = _hints(config.__class__)
    values = [(name, hint, getattr(config, name)) for name, hint in hints.items()]
    raise_problems(
        Problem("", name, f"must be {_describe_type(hint)}, not {value!r}")
        for name, hint, value in values
        if not _fits(value, hint)
    )
    declared = (
        Problem("", each.name, sentence)
        for each in fields(config)
        for sentence in _broken_rules(each.name, getattr(config, each.name), hints[each.name], each.metadata)
    )
    raise_problems((*declared, *(Problem("", name, sentence) for name, holds, sentence in rules if not holds)))


class Checked:
    """Base of the dataclasses whose values are checked by `check_config` when they are made."""

    def __post_init__(self) -> None:
        check_config(self)


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise one ConfigError if there are any problems."""
    if found := tuple(problems):
        raise ConfigError(found)


def suggest(value: object, choices: Collection[str]) -> str:
    """Return the end of a sentence about an unknown name: the choice that was probably meant, and all of them."""
    close = difflib.get_close_matches(str(value), choices, n=1)
    return f"{f'did you mean {close[0]}? ' if close else ''}choose from {', '.join(choices)}"


def unwrap_optional(hint: Any) -> Any:
    """Return the type X of a hint `X | None`, and any other hint as it is."""
    options = [option for option in get_args(hint) if option is not NoneType]
    return options[0] if get_origin(hint) in (Union, UnionType) and len(options) == 1 else hint


def _broken_rules(name: str, value: Any, hint: Any, declared: Any) -> Iterator[str]:
    """Yield a sentence for each rule that a value of the right type breaks. None breaks no rule."""
    literal = unwrap_optional(hint)
    choices: Collection[str] = declared.get("choices") or (get_args(literal) if get_origin(literal) is Literal else ())
    if value is not None and choices and value not in choices:
        noun = name.replace("_", " ")
        article = "an" if noun[0] in "aeiou" else "a"
        yield f"{value!r} is not {article} {noun}; {suggest(value, choices)}"
    bounds = {key: declared[key] for key in _HOLDS if key in declared}
    if not isinstance(value, int | float) or all(_HOLDS[key](value, bound) for key, bound in bounds.items()):
        return
    text = " and ".join(f"{key.replace('_', ' ')} {bound}" for key, bound in bounds.items())
    if "at_least" in bounds and "at_most" in bounds:
        text = f"from {bounds['at_least']} to {bounds['at_most']}"
    yield f"must be {text}, not {value}"


@functools.cache
def _hints(config_type: type) -> dict[str, Any]:
    return get_type_hints(config_type)


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str)  # `_broken_rules` names the choices
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    return isinstance(value, hint)


def _describe_type(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_describe_type(option) for option in get_args(hint))
    if get_origin(hint) is tuple:
        return "whole numbers" if get_args(hint)[0] is int else "a tuple of texts"
    names = {int: "a whole number", float: "a finite number", bool: "true or false", NoneType: "nothing"}
    return names.get(hint, "text")
