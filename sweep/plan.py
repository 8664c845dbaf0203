"""SweepSpec -> Plan: every trial with its identity and schedule, before anything runs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from famba_core.config import AugmentConfig, ConfigError, DataConfig, FusionConfig, ModelConfig, TrainConfig
from sweep.budget import at_patches, case_label, scaled_to
from sweep.checksum import UNSEALED, sealed, verify
from sweep.errors import Problem, UserError
from sweep.grid.cases import CASE_KEYS
from sweep.grid.findings import unknown
from sweep.grid.goals import NUMERIC
from sweep.grid.placement import placed
from sweep.grid.pool import Pool
from sweep.grid.search_spec import Constraint, EarlyStop, Search
from sweep.identity import trial_id
from sweep.names import is_plain
from sweep.spec import SweepSpec

if TYPE_CHECKING:
    from famba_core.data.datasets import DatasetInfo
    from sweep.plan_outline import PlanOutline


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """One training run: everything the worker needs, and nothing that a second machine would decide otherwise."""

    trial_id: str  # readable parts and a hash, both of what defines the result
    study: str
    profile: str
    model: ModelConfig
    fusion: FusionConfig  # the labels of the first case that asks for this trial, and the schedule that runs
    data: DataConfig
    data_fingerprint: str | None = None  # of the images; None for those that come with a library
    augment: AugmentConfig
    train: TrainConfig
    cpus_per_trial: int  # threads, on every executor: sums in another order would change the numbers
    gpus_per_trial: float
    accelerator_type: str | None = None  # Ray's name of the GPU that it must get
    early_stop: EarlyStop | None = None
    suggestion: int | None = None  # of a search: its how many-th trial, from 1; set when it is suggested


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row that the grid asks for. Different cases with one schedule share a trial."""

    backbone: str
    strategy: str
    start_layer: int | None
    stop_layer: int | None
    r: int | None  # None where a budget gives layers different r's, and where nothing fuses
    order: str
    weighting: str
    seed: int
    baseline: bool
    trial_id: str

    @property
    def label(self) -> str:
        """The case in a few words, such as "upper from layer 6, r 9"."""
        return case_label(FusionConfig(**{name: getattr(self, name) for name in CASE_KEYS}))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study will run, as plan.json holds it."""

    study: str
    profile: str
    paper_table: int | None
    objectives: dict[str, str]  # column -> "max" or "min"
    trials: tuple[TrialPlan, ...]  # by seed, then backbone; baselines before the cases in the grid's order
    cases: tuple[Case, ...]  # in the same order
    search: Search | None = None  # chooses among the trials that are no baseline; without one, all of them run
    constraints: tuple[Constraint, ...] = ()
    pool: Pool = field(default_factory=Pool)


def baselines(plan: Plan) -> tuple[TrialPlan, ...]:
    """The trials that others are compared with."""
    wanted = {case.trial_id for case in plan.cases if case.baseline}
    return tuple(trial for trial in plan.trials if trial.trial_id in wanted)


def make_plan(
    spec: SweepSpec, profile_name: str, *, data_dir: str | None = None, flags: Mapping[str, Any] | None = None
) -> Plan:
    """The trials and cases of one profile; of a searched space, those that the profile's images have the tokens for.

    Args:
        data_dir: the folder that holds the data set, instead of the profile's.
        flags: entries of the pool that the command line sets.

    Raises UserError for a profile that the grid has not, a data set that is not there, and flags that cannot be.
    """
    if profile_name not in spec.profiles:
        raise UserError([Problem(str(spec.file), "profiles", unknown(profile_name, spec.profiles))])
    profile = spec.profiles[profile_name]
    resources, pool = placed(profile.resources, spec.pool, flags or {}, profile_name)
    images = data_dir or profile.data.data_dir
    data = replace(profile.data, data_dir=images and os.path.abspath(images))  # workers may run elsewhere
    described = _described(data, spec.file, f"profiles.{profile_name}")
    whole = replace(data, train_images=None)
    if data.train_images == _described(whole, spec.file, f"profiles.{profile_name}").train_images:
        data = whole  # whichever way it is said
    models = [replace(model, num_classes=described.num_classes) for model in profile.models]
    # made before they are combined: each checks itself, which for thousands of trials takes seconds
    trains = [replace(profile.train, seed=seed) for seed in spec.seeds]
    runs = [(model, *case) for model in models for case in _cases_on(model, spec)]
    trials: dict[str, TrialPlan] = {}
    cases = []
    # Seeds vary slowest and baselines come first: whoever runs only the first trials, or is interrupted, has rows
    # that can be compared with each other, rather than one row many times.
    for train, (model, baseline, case, fusion) in itertools.product(trains, runs):
        trial = TrialPlan(
            trial_id="",
            study=spec.study,
            profile=profile_name,
            model=model,
            fusion=fusion,
            data=data,
            data_fingerprint=described.fingerprint,
            augment=profile.augment,
            train=train,
            cpus_per_trial=resources.cpus_per_trial,
            gpus_per_trial=resources.gpus_per_trial,
            accelerator_type=pool.accelerator_type,
            early_stop=None if baseline else spec.early_stop,
        )
        trial = replace(trial, trial_id=trial_id(trial))
        trials.setdefault(trial.trial_id, trial)
        labels = {name: getattr(case, name) for name in CASE_KEYS}
        cases.append(
            Case(backbone=model.backbone, seed=train.seed, baseline=baseline, trial_id=trial.trial_id, **labels)
        )
    return Plan(
        study=spec.study,
        profile=profile_name,
        paper_table=spec.paper_table,
        objectives=dict(spec.objectives),
        trials=tuple(trials.values()),
        cases=tuple(cases),
        search=spec.search,
        constraints=spec.constraints,
        pool=pool,
    )


def _cases_on(model: ModelConfig, spec: SweepSpec) -> Iterator[tuple[bool, FusionConfig, FusionConfig]]:
    """Each case that the model has the tokens for: whether it is a baseline, its labels, and what runs."""
    for case in spec.baselines:
        yield True, case, at_patches(case, model.num_patches)
    for case in spec.cases:
        if not spec.search or scaled_to(case, model.num_patches):
            yield False, case, at_patches(case, model.num_patches)


def _described(data: DataConfig, file: Path, key: str) -> DatasetInfo:
    from famba_core.data.datasets import describe_dataset  # imports torch, which takes seconds

    try:
        return describe_dataset(data)
    except ConfigError as error:
        raise UserError(Problem(str(file), f"{key}.{field}", sentence) for field, sentence in error.problems) from error


@dataclass(frozen=True, kw_only=True)
class _PlanFile(Plan):
    """plan.json."""

    checksum: str = UNSEALED


_PLAN, _PLAN_FILE = TypeAdapter(Plan), TypeAdapter(_PlanFile)
P = TypeVar("P", "Plan", "PlanOutline")


def plan_to_json(plan: Plan) -> str:
    return sealed(_PLAN_FILE.dump_json(_PlanFile(**vars(plan)), indent=2)).decode()


def plan_from_json(text: str | bytes, folder: Path) -> Plan:
    """The plan that `plan_to_json` wrote. Raises UserError, naming the study's `folder`, where the text is not one."""
    plan = validated(_PLAN, text, folder)
    if not plan.trials:
        raise _damaged(folder, "it has no trial")
    if not plan.objectives or not set(plan.objectives) <= set(NUMERIC):
        raise _damaged(folder, f"its objectives are no measured columns: {', '.join(plan.objectives) or 'none'}")
    if wrong := set(plan.objectives.values()) - {"max", "min"}:
        raise _damaged(folder, f"its objectives are max or min, not {', '.join(sorted(wrong))}")
    if plan.paper_table not in (None, 1, 2, 3):
        raise _damaged(folder, f"its paper_table is {plan.paper_table}, and the paper has tables 1, 2 and 3")
    return plan


def validated(adapter: TypeAdapter[P], text: str | bytes, folder: Path) -> P:
    """A plan, or an outline of one, from the text of plan.json. Raises UserError where it cannot be one."""
    if verify(text.encode() if isinstance(text, str) else text) is False:
        raise _damaged(folder, "it is not as it was written")
    try:
        plan = adapter.validate_json(text, strict=True)
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(str(part) for part in detail["loc"])
        raise _damaged(folder, f"{place + ': ' if place else ''}{detail['msg']}") from error
    ids = {trial.trial_id for trial in plan.trials}
    if outside := sorted(trial_id for trial_id in ids if not is_plain(trial_id)):
        raise _damaged(folder, f"it has ids that cannot name a folder: {', '.join(map(repr, outside))}")
    if orphans := {case.trial_id for case in plan.cases} - ids:
        raise _damaged(folder, f"it has cases without a trial: {', '.join(sorted(orphans))}")
    return plan


def _damaged(folder: Path, finding: str) -> UserError:
    sentence = f"plan.json is damaged: {finding}; remove it, and the next run of the grid writes it again"
    return UserError([Problem(str(folder), "", sentence)])
