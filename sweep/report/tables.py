"""The table of a study: one line per configuration, averaged over its seeds, beside the published one; its caption."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from famba_core.config import FusionConfig
from famba_core.fusion.schedule import fusing_layers
from sweep.grid.objectives import Constraint
from sweep.plan.model import Case, Plan
from sweep.report.published import beside_published
from sweep.report.study_data import StudyData
from sweep.text import plural

# What makes a configuration: a case without its seed.
LABELS = ("backbone", "strategy", "start_layer", "stop_layer", "r", "order", "weighting")
MEASURES = (
    "top1_best_pct",
    "top1_pct",
    "top1_ema_pct",
    "top5_pct",
    "train_time_s",
    "peak_memory_mib",
    "step_time_ms",
    "throughput_img_per_s",
    "flops_per_image",
)
# An isolated measurement gives these one value for all seeds, and so no standard deviation.
MEASURED_ONCE = ("train_time_s", "peak_memory_mib", "step_time_ms", "throughput_img_per_s")
RATIOS = {"train_time_ratio": "train_time_s", "peak_memory_ratio": "peak_memory_mib"}


def build_table(data: StudyData) -> pd.DataFrame:
    """Return the table of a study: one line per configuration, the unfused one first.

    Lines are in the paper's order if the grid names one of its tables, else in the grid's. A configuration without a
    completed trial has a line without numbers. The table of a search has one line for each schedule, and only for the
    baselines and the schedules that were tried to the end.

    Columns:
        configuration: the labels in a few words, distinct within the table
        LABELS, reduced_tokens: as planned
        removed_per_layer: tokens that each fusing layer removes, such as "9" or "1–2"; missing without fusion. With
            reference_patches in its grid, r is the paper's label and differs from it on smaller images
        trial_ids: those of all seeds, separated by spaces
        seeds_planned, seeds_measured, seeds_failed: numbers of trials; failed are those whose last attempt failed
        MEASURES, the objectives and the columns that constraints bound: mean over the measured seeds; with the suffix
            _std the standard deviation (n - 1 degrees of freedom), missing for one seed
        RATIOS: the mean over the mean of the row without fusion of the same backbone
        train_time_source: "isolated" if every completed trial of the plan has an isolated measurement. train_time_s is
            then isolated_train_time_s, and MEASURED_ONCE have no standard deviation. Otherwise "in_training", for all
            lines, because times of the two kinds cannot be compared
        feasible, breaks: only with constraints: whether the means meet all of them (missing: not known), and those
            that are broken. As in the search, isolated times are compared where there are any
        published_...: the columns `published.COLUMNS` of the paper, if the grid names one of its tables
    """
    plan, completed = data.plan, data.completed
    cases = _cases_shown(data)
    lines = _planned_lines(plan, cases or plan.cases[:1])  # of an empty table, one line gives the columns
    times = completed["isolated_train_time_s"].where(completed["measured"] == "isolated", completed["train_time_s"])
    with_isolated_times = completed.assign(train_time_s=times)
    bounded = [constraint.column for constraint in plan.constraints]
    measures = [name for name in (*MEASURES, *plan.objectives, *bounded) if name not in (*LABELS, "reduced_tokens")]
    of_seeds = _over_seeds(lines, with_isolated_times if data.is_isolated else completed, measures)
    failed = data.outcomes.index[data.outcomes["status"] == "failed"]
    table = lines.assign(
        trial_ids=lines["trial_ids"].str.join(" "),
        seeds_planned=lines["trial_ids"].str.len(),
        seeds_measured=of_seeds.pop("seeds_measured"),
        seeds_failed=lines["trial_ids"].explode().isin(failed).groupby(level=0).sum(),
        **of_seeds,
    )
    if data.is_isolated:
        table[[f"{name}_std" for name in MEASURED_ONCE]] = np.nan
    table = _with_ratios(table).assign(train_time_source="isolated" if data.is_isolated else "in_training")
    if plan.constraints:
        table = _with_constraints(table, plan.constraints, _over_seeds(lines, with_isolated_times, bounded))
    table = table if cases else table[:0]
    return table if plan.paper_table is None else beside_published(table, plan.paper_table)


def _cases_shown(data: StudyData) -> Sequence[Case]:
    """Return the cases that have a line: all of a grid; of a search one for each baseline and each trial that was tried
    to its end."""
    if data.plan.search is None:
        return data.plan.cases
    tried = set(data.outcomes.index[data.outcomes["status"] != "pruned"])
    first = [case for case in data.plan.cases if case is data.plan.first_cases[case.trial_id]]
    return [case for case in first if case.baseline or case.trial_id in tried]


def _planned_lines(plan: Plan, cases: Sequence[Case]) -> pd.DataFrame:
    """Return a line for each configuration, as planned; `trial_ids` holds lists."""
    seeds: defaultdict[tuple[Any, ...], list[Case]] = defaultdict(list)
    for case in cases:
        seeds[tuple(getattr(case, label) for label in LABELS)].append(case)
    schedules = {trial.trial_id: trial.fusion.schedule for trial in plan.trials}
    varying = {label for label, values in zip(LABELS, zip(*seeds, strict=True), strict=True) if len(set(values)) > 1}
    lines = [
        {
            "configuration": _configuration(alike[0], varying),
            **dict(zip(LABELS, labels, strict=True)),
            "reduced_tokens": sum(schedules[alike[0].trial_id]),
            "removed_per_layer": _removed_per_layer(alike[0].labels, schedules[alike[0].trial_id]),
            "trial_ids": sorted({case.trial_id for case in alike}),
        }
        for labels, alike in seeds.items()
    ]
    return pd.DataFrame(lines).astype({"start_layer": "Int64", "stop_layer": "Int64", "r": "Int64"})


def _removed_per_layer(labels: FusionConfig, schedule: Sequence[int]) -> str | None:
    removed = sorted(schedule[layer - 1] for layer in fusing_layers(labels, len(schedule)))
    return as_range(removed) if removed else None


def as_range(numbers: Sequence[int]) -> str:
    """Return sorted whole numbers as "9" or "1–2"."""
    return f"{numbers[0]}" if numbers[0] == numbers[-1] else f"{numbers[0]}–{numbers[-1]}"


def r_is_scaled(table: pd.DataFrame) -> bool:
    """True if r is the paper's label, and another number of tokens goes in a layer."""
    labelled = table[table["r"].notna() & table["removed_per_layer"].notna()]
    return bool((labelled["r"].astype(str) != labelled["removed_per_layer"]).any())


def _configuration(case: Case, varying: set[str]) -> str:
    """Return the labels of a case in a few words: "start 6, r 9"."""
    strategy = {"none": "no fusion", "upper": f"start {case.start_layer}"}.get(case.strategy, case.strategy)
    words = [strategy if case.stop_layer is None else f"{strategy} to {case.stop_layer}"]
    if case.r is not None:
        words.append(f"r {case.r}")
    if "backbone" in varying:
        words.append(case.backbone)
    if case.strategy != "none":
        words += [getattr(case, label) for label in ("order", "weighting") if label in varying]
    return ", ".join(words)


def _over_seeds(lines: pd.DataFrame, completed: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return for each line seeds_measured, the mean of each column, and its standard deviation with the suffix _std."""
    columns = list(dict.fromkeys(columns))
    trials = lines["trial_ids"].explode().rename("trial_id").rename_axis("line").reset_index()
    values = trials.merge(completed, on="trial_id").set_index("line")[columns].astype(float).groupby(level=0)
    means, deviations = values.mean().reindex(lines.index), values.std().reindex(lines.index).add_suffix("_std")
    both = pd.concat([means, deviations], axis=1)[[name for column in columns for name in (column, f"{column}_std")]]
    return both.assign(seeds_measured=values.size().reindex(lines.index, fill_value=0))


def _with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    unfused = table[table["strategy"] == "none"].drop_duplicates("backbone").set_index("backbone")
    for ratio, measure in RATIOS.items():
        table[ratio] = table[measure] / table["backbone"].map(unfused[measure]).astype(float)
    return table


def _with_constraints(table: pd.DataFrame, constraints: Sequence[Constraint], values: pd.DataFrame) -> pd.DataFrame:
    """Add the columns feasible and breaks; `values` has the columns that the constraints bound."""
    violations = pd.DataFrame({str(bound): values[bound.column].map(bound.violation) for bound in constraints})
    broken, met = violations > 0, violations <= 0
    feasible = met.all(axis=1).astype("boolean").mask(violations.isna().any(axis=1) & ~broken.any(axis=1))
    return table.assign(feasible=feasible, breaks=[" and ".join(broken.columns[line]) for line in broken.to_numpy()])


def table_caption(data: StudyData, table: pd.DataFrame) -> str:
    """Return the sentences below a table: what was run, where, how much of it is done, and how to read it."""
    plan, trial = data.plan, data.plan.trials[0]
    name = f"Table {plan.paper_table} of Famba-V, measured" if plan.paper_table else "Measured"
    pixels, devices = trial.model.image_size, " and ".join(data.distinct("device_name")) or "no device yet"
    sentences = [
        f"{name}: study {plan.study}, profile {plan.profile} ({trial.data.dataset}, {pixels} x {pixels} pixels, "
        f"{plural(trial.train.epochs, 'epoch')}), on {devices}",
        f"{int((table['seeds_measured'] == table['seeds_planned']).sum())} of {plural(len(table), 'row')} measured",
        *([f"Left out: {plural(data.unplanned, 'stored trial')} of earlier plans"] if data.unplanned else []),
        *_search_sentences(data),
        *_constraint_sentences(data, table),
        "Top-1 best is the accuracy of the best epoch on the test set, as in the paper",
        "Ratios are relative to the row without fusion",
        "Training time is the time of one step, measured with nothing else on the device, times the number of steps"
        if data.is_isolated
        else "Training time was measured during training, where other jobs may have used the same machine",
    ]
    seeds = max(table["seeds_planned"], default=0)
    if seeds > 1:
        sentences.append(f"Numbers are mean ± standard deviation over up to {seeds} seeds")
    if plan.paper_table:
        sentences.append(
            "Columns headed paper hold the published values (CIFAR-100, 224 x 224 pixels, 300 epochs, the authors' GPU)"
        )
    return ". ".join(sentences) + "."


def _search_sentences(data: StudyData) -> list[str]:
    if data.plan.search is None:
        return []
    statuses = data.outcomes["status"][data.outcomes.index.isin(data.candidates)]
    stopped = int((statuses == "pruned").sum())
    possible = plural(data.plan.search.tries(len(data.candidates)), "schedule")
    without_row = f" (stopped early, and so without a row: {stopped})" if stopped else ""
    return [f"The search has tried {len(statuses)} of {possible}{without_row}"]


def _constraint_sentences(data: StudyData, table: pd.DataFrame) -> list[str]:
    if not data.plan.constraints or not table["seeds_measured"].any():
        return []
    met, measured = int(table["feasible"].sum()), int((table["seeds_measured"] > 0).sum())
    verb = "meets" if 1 in (met, measured) else "meet"
    return [f"{met} of {plural(measured, 'measured row')} {verb} {' and '.join(map(str, data.plan.constraints))}"]
