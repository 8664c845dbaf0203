"""YAML -> SweepSpec: one grid, checked whole, with every problem reported together."""

from __future__ import annotations

import dataclasses
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from famba_core.config import ConfigError, FusionConfig
from sweep.budget import at_patches
from sweep.cases import GridCase, read_cases
from sweep.findings import Findings
from sweep.grid_file import read_yaml
from sweep.profiles import Profile, read_profiles
from sweep.schema import ResultRow, arrow_schema

Direction = Literal["max", "min"]


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """What a grid file asks for. Each case holds its schedule for 196 patches beside its labels."""

    file: Path
    study: str
    baselines: tuple[FusionConfig, ...]
    cases: tuple[FusionConfig, ...]
    profiles: Mapping[str, Profile]
    paper_table: int | None = None  # 1, 2 or 3
    seeds: tuple[int, ...] = (0,)
    objectives: Mapping[str, Direction] = dataclasses.field(
        default_factory=lambda: {"top1_best_pct": "max", "train_time_s": "min", "peak_memory_mib": "min"}
    )


GRID_KEYS = {
    "study": str,
    "paper_table": int | None,
    "baselines": list,
    "cases": list,
    "space": dict,
    "budget": dict,
    "seeds": list[int],
    "objectives": dict,
    "profiles": dict,
}
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")


def load_spec(path: Path) -> SweepSpec:
    """Read a grid file and check all of it, every profile included.

    Raises UserError with every problem: file, key, rule, value found, valid choices.
    """
    document, problems = read_yaml(path)
    findings = Findings(path, problems)
    grid = findings.mapping(document, "", GRID_KEYS, required=("study", "profiles"))
    if not isinstance(document, dict):
        findings.raise_if_any()
    _check_head(grid, findings)
    baselines, cases = read_cases(grid, findings)
    profiles = read_profiles(grid.get("profiles", {}), findings)
    _check_cases_fit([*baselines, *cases], profiles, findings)
    findings.raise_if_any()
    optional: dict[str, Any] = {key: grid[key] for key in ("paper_table", "objectives") if key in grid}
    if "seeds" in grid:
        optional["seeds"] = tuple(grid["seeds"])
    return SweepSpec(
        file=path,
        study=grid["study"],
        baselines=tuple(case.fusion for case in baselines),
        cases=tuple(case.fusion for case in cases),
        profiles=profiles,
        **optional,
    )


def default_profile(spec: SweepSpec, *, has_gpu: bool, has_cifar100: bool) -> tuple[str, str]:
    """The profile that suits this machine, and a sentence that says why."""
    found = f"this machine has {'a' if has_gpu else 'no'} GPU and {'' if has_cifar100 else 'no '}CIFAR-100"
    if has_gpu and has_cifar100 and "paper" in spec.profiles:
        return "paper", f"profile paper: {found}"
    if "laptop" in spec.profiles:
        return "laptop", f"profile laptop: {found}"
    first = next(iter(spec.profiles))
    return first, f"profile {first}: the first in {spec.file}"


def _check_head(grid: Mapping[str, Any], findings: Findings) -> None:
    """The entries that only name things."""
    names = [("study", grid["study"])] if "study" in grid else []
    names += [("profiles", name) for name in grid.get("profiles", ())]
    for key, name in names:
        if name is None or not _PLAIN_NAME.fullmatch(str(name)):
            findings.add(
                key,
                f"{'null' if name is None else reprlib.repr(name)} is not a plain name: at most 100 letters, digits, "
                "_ and -, not starting with - (it becomes part of a folder's name)",
            )
    if grid.get("paper_table") not in (None, 1, 2, 3):
        findings.add("paper_table", f"must be 1, 2 or 3, not {grid['paper_table']}")
    seeds = grid.get("seeds", [0])
    if not seeds:
        findings.add("seeds", "lists no seed; leave it out for seed 0")
    for seed in seeds:
        if seed < 0:
            findings.add("seeds", f"must be at least 0, not {seed}")
        if seeds.count(seed) > 1:
            findings.add("seeds", f"{seed} is listed {seeds.count(seed)} times; each seed runs once")
    if "objectives" in grid:
        if not grid["objectives"]:
            findings.add("objectives", "names no column; leave it out for accuracy, time and memory")
        columns = [
            field.name
            for field in arrow_schema(ResultRow)
            if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        ]
        findings.mapping(grid["objectives"], "objectives", dict.fromkeys(columns, Direction))
    if grid.get("profiles") == {}:
        findings.add("profiles", "a grid needs at least one")


def _check_cases_fit(cases: list[GridCase], profiles: Mapping[str, Profile], findings: Findings) -> None:
    """A case that fits the paper's 197 tokens may still ask too much of a layer on smaller images."""
    for name, profile in profiles.items():
        for num_patches in dict.fromkeys(model.num_patches for model in profile.models):
            for case in cases:
                try:
                    at_patches(case.fusion, num_patches)
                except ConfigError as error:
                    for _, sentence in error.problems:
                        findings.add(case.key, f"in profile {name} ({num_patches + 1} tokens), {sentence}")
