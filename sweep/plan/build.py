"""SweepSpec -> Plan: every trial with its identity and schedule, before anything runs."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from famba_core.config import ConfigError, FusionConfig, FusionSchedule, ModelConfig
from famba_core.cost.work import cost
from famba_core.errors import Problem
from sweep.errors import UserError
from sweep.grid.budget import find_schedule_on, schedule_on
from sweep.grid.resources import resolve_resources
from sweep.grid.spec import SweepSpec
from sweep.grid.validator import unknown
from sweep.plan.identity import trial_id
from sweep.plan.model import Case, Plan, Trial


def make_plan(
    spec: SweepSpec,
    profile_name: str,
    *,
    data_dir: str | None = None,
    flags: Mapping[str, Any] | None = None,
    needs_data: bool = True,
) -> Plan:
    """Return the trials and cases of one profile, without the cases that may be left out where they cannot run.

    Args:
        data_dir: the folder that holds the data set, instead of the profile's.
        flags: entries of the pool set on the command line.
        needs_data: False plans with published sizes if the data set is not on this machine, to say the price.

    Raises UserError for an unknown profile, a missing data set and invalid flags.
    """
    if profile_name not in spec.profiles:
        raise UserError([Problem(str(spec.file), "profiles", unknown(profile_name, spec.profiles))])
    profile = spec.profiles[profile_name]
    resources, pool = resolve_resources(profile.resources, spec.pool, flags or {}, profile_name)
    from famba_core.data.datasets import describe_dataset, size_dataset  # imports torch, which takes seconds

    images = data_dir or profile.data.data_dir
    if images:  # workers may run elsewhere
        images = os.path.abspath(os.path.expanduser(images))
    data = replace(profile.data, data_dir=images)
    describe = describe_dataset if needs_data else size_dataset
    try:
        described, whole = describe(data), describe(replace(data, train_images=None, test_images=None))
        if data.train_images == whole.train_images:  # the same images, with their number named in the grid
            data = replace(data, train_images=None)
        if data.test_images == whole.test_images:
            data = replace(data, test_images=None)
    except ConfigError as error:
        raise UserError(error.at(spec.file, f"profiles.{profile_name}")) from error
    models = [replace(model, num_classes=described.num_classes) for model in profile.models]
    # made before they are combined: each checks itself, which for thousands of trials takes seconds
    trains = [replace(profile.train, seed=seed) for seed in spec.seeds]
    runs = [(model, *case) for model in models for case in _runs_on(model, spec)]
    trials: dict[str, Trial] = {}
    cases = []
    # Seeds vary slowest: whoever is interrupted has rows that can be compared with each other, rather than one row many
    # times.
    for train, (model, baseline, labels, fusion) in itertools.product(trains, runs):
        trial = Trial(
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
        case = Case(
            backbone=model.backbone, seed=train.seed, baseline=baseline, trial_id=trial.trial_id, **vars(labels)
        )
        cases.append(case)
    return Plan(
        study=spec.study,
        profile=profile_name,
        paper_table=spec.paper_table,
        objectives=dict(spec.objectives),
        trials=_in_running_order(trials.values(), cases),
        cases=tuple(cases),
        search=spec.search,
        constraints=spec.constraints,
        pool=pool,
    )


def _in_running_order(trials: Iterable[Trial], cases: Collection[Case]) -> tuple[Trial, ...]:
    """Return the trials by seed; of a seed the baselines first, then the rest, each with the longest first.

    A pool that ends with its longest trials would wait for a single one. Trials of a plan differ in model and schedule
    alone, so that FLOPs say which is longer, on every device alike.
    """
    baselines = {case.trial_id for case in cases if case.baseline}
    seeds = {seed: place for place, seed in enumerate(dict.fromkeys(case.seed for case in cases))}

    def place(trial: Trial) -> tuple[int, bool, float]:
        is_baseline = trial.trial_id in baselines
        return seeds[trial.train.seed], not is_baseline, -_flops_per_image(trial.model, trial.fusion.schedule)

    return tuple(sorted(trials, key=place))


@functools.cache  # seeds share it
def _flops_per_image(model: ModelConfig, schedule: tuple[int, ...]) -> float:
    return cost(model, schedule).flops_per_image


def _runs_on(model: ModelConfig, spec: SweepSpec) -> Iterator[tuple[bool, FusionConfig, FusionSchedule]]:
    """Yield (is baseline, labels, schedule) of each case that the plan has for this model."""
    for baseline, requests in ((True, spec.baselines), (False, spec.cases)):
        for request in requests:
            if not baseline and spec.skip_infeasible and find_schedule_on(request, model.token_grid) is None:
                continue
            yield baseline, request.labels, schedule_on(request, model.token_grid)
