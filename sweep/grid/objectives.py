"""The objectives of a grid, and the constraints of a search."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from famba_core.arrow import arrow_schema
from sweep.grid.profiles import Profile
from sweep.grid.validator import Validator, unknown
from sweep.schema import ResultRow

Direction = Literal["max", "min"]

MOST_OBJECTIVES = 5  # with more, nearly every trial is on the frontier
NUMERIC = tuple(
    field.name
    for field in arrow_schema(ResultRow)
    if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
)
# Inputs of a trial, not its results.
_GIVEN = frozenset(
    ("attempt", "suggestion", "seed", "start_layer", "stop_layer", "r", "train_images", "image_size", "patch_size",
     "epochs", "batch_size", "lr", "weight_decay", "warmup_epochs", "label_smoothing", "mixup", "cutmix",
     "cpus_per_trial", "gpus_per_trial")
)  # fmt: skip
OUTCOMES = tuple(name for name in NUMERIC if name not in _GIVEN)
_OF_AVERAGED_WEIGHTS = ("top1_ema_pct", "top5_ema_pct")
_CONSTRAINT = re.compile(r"\s*(\w+)\s*(<=|>=)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*", re.ASCII | re.IGNORECASE)


def check_objectives(objectives: Mapping[str, Any], validator: Validator) -> None:
    """Check that the objectives are results of a trial, each with a direction; problems go to `validator`."""
    if not objectives:
        validator.add("objectives", "names no column; leave it out for accuracy, time and memory")
    if len(objectives) > MOST_OBJECTIVES:
        validator.add("objectives", f"names {len(objectives)} columns, and {MOST_OBJECTIVES} are the most")
    for name in objectives:
        if name in _GIVEN:
            validator.add(f"objectives.{name}", _explain_given(name))
    named = {name: way for name, way in objectives.items() if name not in _GIVEN}
    validator.mapping(named, "objectives", dict.fromkeys(OUTCOMES, Direction))


def read_constraints(entry: Any, validator: Validator) -> tuple[Constraint, ...]:
    """Return the `constraints` of a grid, one or a list of them; problems go to `validator`."""
    found: dict[tuple[str, str], tuple[str, Constraint]] = {}  # by column and relation, with the key
    for i, text in enumerate(entry if isinstance(entry, list) else [entry]):
        key = f"constraints[{i}]" if isinstance(entry, list) else "constraints"
        constraint = _constraint(text, key, validator)
        if constraint is None:
            continue
        column = constraint.column
        if same := found.get((column, constraint.relation)):
            validator.add(key, f"bounds {column} on the same side as {same[0]}; keep one of the two")
        found[column, constraint.relation] = key, constraint
        (_, lower), (_, upper) = (found.get((column, relation), ("", None)) for relation in (">=", "<="))
        if lower and upper and lower.bound > upper.bound:
            validator.add(key, f"no trial can keep both {lower} and {upper}")
    return tuple(constraint for _, constraint in found.values())


def check_measured(
    grid: Mapping[str, Any], constraints: Iterable[Constraint], profiles: Mapping[str, Profile], validator: Validator
) -> None:
    """Check that every profile measures the columns of the objectives and constraints."""
    without = ", ".join(name for name, profile in profiles.items() if not profile.train.ema)
    columns = [(f"objectives.{column}", column) for column in grid.get("objectives", ())]
    columns += [("constraints", constraint.column) for constraint in constraints]
    for key, column in columns:
        if without and column in _OF_AVERAGED_WEIGHTS:
            validator.add(key, f"{column} is of averaged weights, and there are none with ema: false in {without}")


def _constraint(text: object, key: str, validator: Validator) -> Constraint | None:
    match = _CONSTRAINT.fullmatch(text) if isinstance(text, str) else None
    if match is None or not math.isfinite(float(match[3])):
        found = repr(text) if isinstance(text, str) and len(text) < 100 else reprlib.repr(text)
        sentence = "must be a column, <= or >=, and a number, such as peak_memory_mib <= 6000, not "
        validator.add(key, sentence + found)
    elif match[1] in _GIVEN:
        validator.add(key, _explain_given(match[1]))
    elif match[1] not in OUTCOMES:
        validator.add(key, unknown(match[1], OUTCOMES))
    else:
        constraint = Constraint(column=match[1], relation=match[2], bound=float(match[3]))  # type: ignore[arg-type]
        share = constraint.column.endswith("_pct")
        if constraint.bound < 0 if constraint.relation == "<=" else share and constraint.bound > 100:
            ends = "from 0 to 100" if share else "at least 0"
            validator.add(key, f"no trial can keep {constraint}: {constraint.column} is {ends}")
        else:
            return constraint
    return None


def _explain_given(column: str) -> str:
    return f"{column} is an input of a trial, not a result; choose from {', '.join(OUTCOMES)}"


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """A bound on a result's column, such as peak_memory_mib <= 6000, that a search should meet."""

    column: str
    relation: Literal["<=", ">="]
    bound: float

    def __str__(self) -> str:
        return f"{self.column} {self.relation} {self.bound:g}"

    def violation(self, value: float) -> float:
        """Return how far the value is beyond the bound, in the column's unit; 0 or less where it meets the bound."""
        return value - self.bound if self.relation == "<=" else self.bound - value
