"""Checks the types of values from a file, and collects every problem."""

from __future__ import annotations

import functools
import reprlib
import typing
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from famba_core.errors import ConfigError, Problem, suggest
from sweep.errors import UserError

Config = TypeVar("Config")

_WANTED = {  # pydantic's error types, in a user's words
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
}


class Validator:
    """Collects the validation errors of one file; its methods return the valid values."""

    def __init__(self, file: Path, problems: Collection[Problem] = ()):
        self.file = file
        self.problems = list(problems)

    def add(self, key: str, sentence: str) -> None:
        self.problems.append(Problem(str(self.file), key, sentence))

    def raise_if_any(self) -> None:
        if self.problems:
            raise UserError(dict.fromkeys(self.problems))

    def mapping(
        self, value: object, key: str, types: Mapping[str, Any], required: Collection[str] = ()
    ) -> dict[str, Any]:
        """Return the entries of a mapping whose name and type are in `types`.

        Types are exact: true is not a number and "3" is not a whole number, but 3 is a number.
        Whole numbers fit in 64 bits.
        """
        if not isinstance(value, dict):
            self.add(key, f"must be a mapping with keys {', '.join(types)}{_found(value)}")
            return {}
        for name in required:
            if name not in value:
                self.add(_join(key, name), "is required")
        good = {}
        for name, entry in value.items():
            if name not in types:
                self.add(_join(key, name), unknown(name, types))
                continue
            try:
                typed = _adapter(types[name]).validate_python(entry)
                large = [n for n in (typed if isinstance(typed, list) else [typed]) if _is_too_large(n)]
                if large:
                    self.add(_join(key, name), f"must be a whole number that fits in 64 bits{_found(large[0])}")
                else:
                    good[name] = typed
            except ValidationError as error:
                for detail in error.errors():
                    wanted = _WANTED.get(detail["type"]) or detail["ctx"]["expected"].replace("'", "")
                    self.add(_join(key, name, *detail["loc"]), f"must be {wanted}{_found(detail['input'])}")
        return good

    def config(self, config_type: type[Config], values: Mapping[str, Any], key: str) -> Config | None:
        """Return the configuration with these values, which are under `key`; or None if they are invalid."""
        try:
            return config_type(**values)
        except ConfigError as error:
            self.problems += error.at(self.file, key)
            return None


def unknown(name: object, choices: Collection[str]) -> str:
    """Return the sentence for a name that is not one of `choices`."""
    return f"{name!r} is not known; {suggest(name, choices)}"


def _is_too_large(value: object) -> bool:
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _found(value: object) -> str:
    if value is None:
        return ", but is empty"
    return f", not {str(value).lower() if isinstance(value, bool) else reprlib.repr(value)}"


def field_types(config_type: Any, *, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the types of a dataclass's fields by name, as `Validator.mapping` takes them."""
    hints = typing.get_type_hints(config_type)
    return {field.name: hints[field.name] for field in fields(config_type) if field.name not in without}


@functools.cache
def _adapter(type_: Any) -> TypeAdapter[Any]:
    return TypeAdapter(type_, config=ConfigDict(strict=True, allow_inf_nan=False))


def _join(*parts: object) -> str:
    """Return the path of a key, such as "profiles.laptop.backbone[1]"."""
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path
