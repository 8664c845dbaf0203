"""Reads a grid file as a SweepSpec, and reports every problem of the file together."""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from famba_core.config import TokenGrid
from famba_core.paper.published import PAPER_PATCHES
from sweep.grid.budget import PAPER_GRID, Budget, FusionRequest, Infeasible, schedule_on, share_at
from sweep.grid.cases import SKIP_ADVICE, GridCase, GridCases, add_infeasible, read_cases, section_of
from sweep.grid.objectives import Constraint, Direction, check_measured, check_objectives
from sweep.grid.profiles import Profile, read_profiles
from sweep.grid.resources import Pool, read_pool
from sweep.grid.search import EarlyStop, Search, SearchSection, is_optuna, read_search
from sweep.grid.validator import Validator
from sweep.grid.yaml_file import read_yaml
from sweep.text import plural


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """A grid file that has been read and checked."""

    file: Path
    study: str
    baselines: tuple[FusionRequest, ...]
    cases: tuple[FusionRequest, ...]
    profiles: Mapping[str, Profile]
    paper_table: int | None  # 1, 2 or 3
    seeds: tuple[int, ...]
    objectives: Mapping[str, Direction]
    search: Search | None  # chooses among the cases; without a search all of them run
    early_stop: EarlyStop | None
    constraints: tuple[Constraint, ...]
    pool: Pool
    skip_infeasible: bool  # cases that a profile's images lack the tokens for are left out there
    left_out: int  # cases that the budget, or 197 tokens with reference_patches, rule out


GRID_KEYS = {
    "study": str,
    "paper_table": int | None,
    "reference_patches": int,
    "baselines": list,
    "cases": list,
    "space": dict,
    "budget": dict,
    "infeasible": Literal["skip"],
    "seeds": list[int],
    "objectives": dict,
    "search": dict,
    "early_stop": Any,  # a name or a mapping
    "constraints": Any,  # one or a list
    "pool": dict,
    "profiles": dict,
}
MOST_TRIALS = 50_000  # of a profile; each has an entry in plan.json
DEFAULT_OBJECTIVES: dict[str, Direction] = {
    "top1_best_pct": "max", "train_time_s": "min", "peak_memory_mib": "min"
}  # fmt: skip
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")


def load_spec(path: Path) -> SweepSpec:
    """Read a grid file and check all of it, every profile included.

    Raises UserError with every problem: file, key, rule, value found, valid choices.
    """
    document, problems = read_yaml(path)
    validator = Validator(path, problems)
    grid = validator.mapping(document, "", GRID_KEYS, required=("study", "profiles"))
    if not isinstance(document, dict):
        validator.raise_if_any()
    _check_head(grid, validator)
    searching = read_search(grid, validator)
    leave_out = grid.get("infeasible") == "skip" or (is_optuna(grid) and "space" in grid)
    found = read_cases(grid, validator, leave_out=leave_out)
    profiles = read_profiles(grid.get("profiles", {}), validator)
    pool = read_pool(grid["pool"], validator) if "pool" in grid else None
    _check_cases_fit(grid, found, profiles, validator, leave_out=leave_out)
    if found.budget and "reference_patches" in grid:
        _check_shares(found.budget, profiles, validator)
    if is_optuna(grid):
        _check_searched(grid, profiles, validator)
    check_measured(grid, searching.constraints, profiles, validator)
    _check_sizes(searching, found, len(grid.get("seeds", [0])), profiles, validator)
    validator.raise_if_any()
    return SweepSpec(
        file=path,
        study=grid["study"],
        baselines=tuple(case.request for case in found.baselines),
        cases=tuple(case.request for case in found.cases),
        profiles=profiles,
        paper_table=grid.get("paper_table"),
        seeds=tuple(grid.get("seeds", [0])),
        objectives=grid.get("objectives", DEFAULT_OBJECTIVES),
        search=searching.search,
        early_stop=searching.early_stop,
        constraints=searching.constraints,
        pool=pool or Pool(),
        skip_infeasible=leave_out,
        left_out=found.left_out,
    )


def default_profile(spec: SweepSpec, *, has_gpu: bool, has_cifar100: bool) -> tuple[str, str]:
    """Return the name of the profile that suits this machine, and the reason as a sentence."""
    found = f"this machine has {'a' if has_gpu else 'no'} GPU and {'' if has_cifar100 else 'no '}CIFAR-100"
    if has_gpu and has_cifar100 and "paper" in spec.profiles:
        return "paper", f"profile paper: {found}"
    if "laptop" in spec.profiles:
        return "laptop", f"profile laptop: {found}"
    first = next(iter(spec.profiles))
    return first, f"profile {first}: the first in {spec.file}"


def _check_head(grid: Mapping[str, Any], validator: Validator) -> None:
    """Check names, what is the paper's, seeds, and objectives."""
    names = [("study", grid["study"])] if "study" in grid else []
    names += [("profiles", name) for name in grid.get("profiles", ())]
    for key, name in names:
        if name is None or not _PLAIN_NAME.fullmatch(str(name)):
            validator.add(
                key,
                f"{'null' if name is None else reprlib.repr(name)} is not a plain name: at most 100 letters, digits, "
                "_ and -, not starting with - (it becomes part of a folder's name)",
            )
    if grid.get("paper_table") not in (None, 1, 2, 3):
        validator.add("paper_table", f"must be 1, 2 or 3, not {grid['paper_table']}")
    if grid.get("reference_patches", PAPER_PATCHES) != PAPER_PATCHES:
        validator.add(
            "reference_patches",
            f"must be {PAPER_PATCHES}, the patches of the paper's images, not {grid['reference_patches']}; without it "
            "r and budgets are tokens of each profile's own images",
        )
    seeds = grid.get("seeds", [0])
    if not seeds:
        validator.add("seeds", "lists no seed; leave it out for seed 0")
    for seed, times in Counter(seeds).items():
        if seed < 0:
            validator.add("seeds", f"must be at least 0, not {seed}")
        if times > 1:
            validator.add("seeds", f"{seed} is listed {times} times; each seed runs once")
    if "objectives" in grid:
        check_objectives(grid["objectives"], validator)
    if grid.get("profiles") == {}:
        validator.add("profiles", "a grid needs at least one")


def _check_cases_fit(
    grid: Mapping[str, Any], found: GridCases, profiles: Mapping[str, Profile], validator: Validator, *, leave_out: bool
) -> None:
    """Check that each profile's images have the tokens that the cases remove.

    With `leave_out`, cases that do not fit are allowed, as long as one of them fits.
    """
    scales = "" if "reference_patches" in grid else f"; `reference_patches: {PAPER_PATCHES}` scales the paper's r"
    for name, profile in profiles.items():
        for tokens in dict.fromkeys(model.token_grid for model in profile.models):
            where = f"in profile {name} ({tokens.tokens} tokens), "
            advice = scales if tokens != PAPER_GRID else ""
            add_infeasible(_misfits(found.baselines, tokens), validator, where=where, advice=advice)
            misfits = _misfits(found.cases, tokens)
            if not leave_out:
                add_infeasible(misfits, validator, where=where, advice=SKIP_ADVICE + advice)
            elif misfits and len(misfits) == len(found.cases):
                sentence = f"{where}none of its {plural(len(misfits), 'case')} has the tokens it would remove"
                validator.add(section_of(grid), sentence + advice)


def _misfits(cases: Iterable[GridCase], tokens: TokenGrid) -> list[tuple[str, Infeasible]]:
    """Return the cases that would remove more tokens than a layer can, each with its key."""
    found = []
    for case in cases:
        try:
            schedule_on(case.request, tokens)
        except Infeasible as error:
            found.append((case.key, error))
    return found


def _check_shares(budget: Budget, profiles: Mapping[str, Profile], validator: Validator) -> None:
    """Check that an exact total, rounded to whole tokens, stays near the budget's share on smaller images."""
    if budget.reduced_tokens is None or budget.rule != "exact":
        return
    for name, profile in profiles.items():
        for num_patches in dict.fromkeys(model.num_patches for model in profile.models):
            share, removed = share_at(budget, num_patches)
            if abs(removed - share) > budget.tolerance * share:
                validator.add(
                    "budget.tolerance",
                    f"in profile {name} ({num_patches + 1} tokens) the budget's share is {share:.2f} tokens, and "
                    f"{removed} would go: {abs(removed - share) / share:.1%} off, and the tolerance is "
                    f"{budget.tolerance:.1%}",
                )


def _check_searched(grid: Mapping[str, Any], profiles: Mapping[str, Profile], validator: Validator) -> None:
    """Check that a search has one seed and one backbone, so that its cases differ in fusion alone."""
    seeds = grid.get("seeds", [0])
    if len(seeds) > 1:
        validator.add("seeds", f"a search trains with one seed, not {len(seeds)}: {seeds}")
    for name, profile in profiles.items():
        backbones = [model.backbone for model in profile.models]
        if len(backbones) > 1:
            validator.add(
                f"profiles.{name}.backbone",
                f"a search trains one backbone, not {len(backbones)}: {', '.join(backbones)}",
            )


def _check_sizes(
    searching: SearchSection, found: GridCases, seeds: int, profiles: Mapping[str, Profile], validator: Validator
) -> None:
    """Check that there are not too many trials for a plan, and that early stopping can end some of them."""
    stop, key = searching.early_stop, searching.stop_key
    compared = len(found.cases) * seeds  # with each other, at a rung
    if searching.search:
        compared = min(compared, searching.search.trials)
    for name, profile in profiles.items():
        count = (len(found.baselines) + len(found.cases)) * seeds * len(profile.models)
        if count > MOST_TRIALS:
            validator.add(f"profiles.{name}", f"has {count} trials with {seeds} seeds, and {MOST_TRIALS} are the most")
        if stop and stop.min_epochs >= profile.train.epochs:
            validator.add(
                f"{key}.min_epochs",
                f"{stop.min_epochs} ends no trial of profile {name} early: it must be below its {profile.train.epochs} "
                "epochs",
            )
    if stop and 0 < compared < stop.reduction_factor:
        validator.add(
            f"{key}.reduction_factor",
            f"{stop.reduction_factor} ends no trial early: it must be at most the {compared} that are compared",
        )
