"""Plan and stored rows -> one line per configuration, over its seeds, beside the published one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from famba_core.config import BACKBONES
from sweep.grid.objectives import Constraint
from sweep.plan.model import Case, Plan, candidate_ids
from sweep.report.paper.published import paper_table
from sweep.store.outcomes import select_completed, select_outcomes
from sweep.text import plural

# What makes a configuration: a case apart from its seed.
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
# With an isolated measurement these have one value for all seeds, and so no spread.
MEASURED_ONCE = ("train_time_s", "peak_memory_mib", "step_time_ms", "throughput_img_per_s")
RATIOS = {"train_time_ratio": "train_time_s", "peak_memory_ratio": "peak_memory_mib"}
PUBLISHED = ("top1_pct", "top5_pct", "train_time_s", "peak_memory_mib", *RATIOS)


def build_table(plan: Plan, rows: pd.DataFrame) -> pd.DataFrame:
    """The table of a study: one line per configuration, the unfused one first.

    Lines stand in the paper's order where the grid names a table of it, else in the grid's. A configuration that is
    not measured yet has a line without numbers; of those that a search chooses from, only tried ones have a line, one
    for each schedule, and none that was only stopped early.

    Args:
        rows: of the plan's trials, as `store.read_rows` gives them; only completed ones count.

    Returns a frame with the columns
        configuration: the labels in a few words, distinct within the table
        LABELS, reduced_tokens: as planned
        trial_ids: of its seeds, separated by spaces
        seeds_planned, seeds_measured, seeds_failed: trials; failed are those whose last attempt has failed
        MEASURES, the objectives and what constraints bound: mean over the measured seeds; with _std: standard
            deviation (n - 1 degrees of freedom), missing for one seed
        RATIOS: the mean over that of the row without fusion of the same backbone
        train_time_source: "isolated" if every completed trial of the plan has an isolated measurement; train_time_s is
            then isolated_train_time_s, and MEASURED_ONCE have no spread. Else "in_training", for all lines, because
            times of the two kinds do not compare
        feasible, breaks: where a search has constraints, whether the line meets them all (missing: not known), and
            those that it breaks; the mean is compared, of isolated times where there are any, as in the search
        published_...: the columns PUBLISHED of the paper, where the grid names a table of it
    """
    shown = _shown(plan, rows)
    lines = _lines(plan, shown or plan.cases[:1])  # of a search that has no row yet, a line to take the columns from
    done, stored = select_completed(rows), select_outcomes(rows)
    isolated = len(done) > 0 and bool((done["measured"] == "isolated").all())
    searched = done.assign(  # the times that a search compares
        train_time_s=done["isolated_train_time_s"].where(done["measured"] == "isolated", done["train_time_s"])
    )
    bounded = [constraint.column for constraint in plan.constraints]
    named = [name for name in bounded if name not in LABELS]
    measures = [n for n in dict.fromkeys((*MEASURES, *plan.objectives, *named)) if n != "reduced_tokens"]
    of_seeds = _over_seeds(lines, searched if isolated else done, measures)
    failed = lines["trial_ids"].explode().isin(stored.index[stored["status"] == "failed"])
    table = lines.assign(
        trial_ids=lines["trial_ids"].str.join(" "),
        seeds_planned=lines["trial_ids"].str.len(),
        seeds_measured=of_seeds.pop("seeds_measured"),
        seeds_failed=failed.groupby(level=0).sum(),
        **of_seeds,
    )
    table = table.astype({"start_layer": "Int64", "stop_layer": "Int64", "r": "Int64"})
    if isolated:
        table[[f"{name}_std" for name in MEASURED_ONCE]] = np.nan
    table = _with_ratios(table).assign(train_time_source="isolated" if isolated else "in_training")
    if plan.constraints:
        table = _with_constraints(table, plan.constraints, _over_seeds(lines, searched, bounded))
    table = table if shown else table[:0]
    return table if plan.paper_table is None else _beside_published(table, plan.paper_table)


def _lines(plan: Plan, cases: Sequence[Case]) -> pd.DataFrame:
    """A line for each configuration, as planned; `trial_ids` holds lists."""
    seeds: defaultdict[tuple[Any, ...], list[Case]] = defaultdict(list)
    for case in cases:
        seeds[tuple(getattr(case, label) for label in LABELS)].append(case)
    removed = {trial.trial_id: sum(trial.fusion.schedule) for trial in plan.trials}
    varying = {label for i, label in enumerate(LABELS) if len({labels[i] for labels in seeds}) > 1}
    return pd.DataFrame(
        [
            {
                "configuration": _describe(alike[0], varying),
                **dict(zip(LABELS, labels, strict=True)),
                "reduced_tokens": removed[alike[0].trial_id],
                "trial_ids": sorted({case.trial_id for case in alike}),
            }
            for labels, alike in seeds.items()
        ]
    )


def _over_seeds(lines: pd.DataFrame, done: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """For each line: seeds_measured, and of each column the mean and, with _std, the standard deviation."""
    columns = list(dict.fromkeys(columns))
    trials = lines["trial_ids"].explode().rename("trial_id").rename_axis("line").reset_index()
    values = trials.merge(done, on="trial_id").set_index("line")[columns].astype(float).groupby(level=0)
    means, spreads = values.mean().reindex(lines.index), values.std().reindex(lines.index).add_suffix("_std")
    both = pd.concat([means, spreads], axis=1)[[name for column in columns for name in (column, f"{column}_std")]]
    return both.assign(seeds_measured=values.size().reindex(lines.index, fill_value=0))


def _with_constraints(table: pd.DataFrame, constraints: Sequence[Constraint], values: pd.DataFrame) -> pd.DataFrame:
    """Add feasible and breaks, from the columns that the constraints bound."""
    violations = pd.DataFrame({str(bound): values[bound.column].map(bound.violation) for bound in constraints})
    broken, met = violations > 0, violations <= 0
    feasible = met.all(axis=1).astype("boolean").mask(violations.isna().any(axis=1) & ~broken.any(axis=1))
    return table.assign(feasible=feasible, breaks=[" and ".join(broken.columns[line]) for line in broken.to_numpy()])


def _shown(plan: Plan, rows: pd.DataFrame) -> Sequence[Case]:
    """The cases that have a line: all of a grid's; of a search's, which looks for schedules, the first case of each
    baseline and of each trial that completed or failed."""
    if plan.search is None:
        return plan.cases
    tried = select_outcomes(rows).query("status != 'pruned'").index
    first = {case.trial_id: case for case in reversed(plan.cases)}
    return [case for case in plan.cases if case is first[case.trial_id] and (case.baseline or case.trial_id in tried)]


def caption(plan: Plan, rows: pd.DataFrame, table: pd.DataFrame) -> str:
    """Sentences for under the table: what was run, on what, how much of it is there, how to read it."""
    trial = plan.trials[0]
    name = f"Table {plan.paper_table} of Famba-V, measured" if plan.paper_table else "Measured"
    pixels, device = trial.model.image_size, " and ".join(devices(rows)) or "no device yet"
    seeds, epochs = max(table["seeds_planned"], default=0), trial.train.epochs
    sentences = [
        f"{name}: study {plan.study}, profile {plan.profile} ({trial.data.dataset}, {pixels} x {pixels} pixels, "
        f"{plural(epochs, 'epoch')}), on {device}",
        f"{int((table['seeds_measured'] == table['seeds_planned']).sum())} of {plural(len(table), 'row')} measured",
        *_search_words(plan, rows),
        *_constraint_words(plan, table),
        "Top-1 best is the best epoch's on the test set, the paper's rule",
        "Ratios are to the row without fusion",
        _time_words(table),
    ]
    if seeds > 1:
        sentences.append(f"Mean ± standard deviation over up to {seeds} seeds")
    if plan.paper_table:
        sentences.append(
            "Columns headed paper hold the published values (CIFAR-100, 224 x 224 pixels, 300 epochs, the authors' GPU)"
        )
    return ". ".join(sentences) + "."


def _search_words(plan: Plan, rows: pd.DataFrame) -> list[str]:
    if plan.search is None:
        return []
    chosen = candidate_ids(plan.cases)
    statuses = select_outcomes(rows)["status"]
    statuses = statuses[statuses.index.isin(chosen)]
    stopped, tries = int((statuses == "pruned").sum()), plural(plan.search.tries(len(chosen)), "schedule")
    have = "has" if stopped == 1 else "have"
    early = f", and stopped {stopped} of them early, which {have} no row" if stopped else ""
    return [f"The search has tried {len(statuses)} of {tries}{early}"]


def _constraint_words(plan: Plan, table: pd.DataFrame) -> list[str]:
    if not plan.constraints or not table["seeds_measured"].any():
        return []
    met, measured = int(table["feasible"].sum()), int((table["seeds_measured"] > 0).sum())
    verb = "meets" if 1 in (met, measured) else "meet"
    return [f"{met} of {plural(measured, 'measured row')} {verb} {' and '.join(map(str, plan.constraints))}"]


def devices(rows: pd.DataFrame) -> list[str]:
    """Names of the devices that the completed rows were measured on."""
    return sorted(select_completed(rows)["device_name"].dropna().unique())


def _describe(case: Case, varying: set[str]) -> str:
    """A configuration in a few words: "start 6, r 9"."""
    strategy = {"none": "no fusion", "upper": f"start {case.start_layer}"}.get(case.strategy, case.strategy)
    words = [strategy if case.stop_layer is None else f"{strategy} to {case.stop_layer}"]
    if case.r is not None:
        words.append(f"r {case.r}")
    told = ("backbone",) if case.strategy == "none" else ("backbone", "order", "weighting")
    return ", ".join(words + [getattr(case, label) for label in told if label in varying])


def _time_words(table: pd.DataFrame) -> str:
    if (table["train_time_source"] == "isolated").all():
        return "Training time is the time of a step, measured alone on the device, times the number of steps"
    return "Training time is as it was in training, with whatever ran beside it"


def _with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    unfused = table[table["strategy"] == "none"].drop_duplicates("backbone").set_index("backbone")
    for ratio, measure in RATIOS.items():
        table[ratio] = table[measure] / table["backbone"].map(unfused[measure]).astype(float)
    return table


def _beside_published(table: pd.DataFrame, number: int) -> pd.DataFrame:
    """Add the published columns, and put the lines in the paper's order: unfused first, others that it lacks last."""
    paper = paper_table(number)
    position_of = {_published_key(line): position for position, (_, line) in enumerate(paper.iterrows())}
    positions = []
    for _, line in table.iterrows():
        otherwise = -1 if line["strategy"] == "none" else len(paper)
        positions.append(position_of.get(_published_key(line), otherwise))
    beside = paper[list(PUBLISHED)].reindex(positions).add_prefix("published_").set_axis(table.index)
    return table.join(beside).iloc[np.argsort(positions, kind="stable")].reset_index(drop=True)


def _published_key(line: pd.Series) -> tuple[Any, ...]:
    """What a measured and a published line have in common; small backbones stand for published ones.

    The paper fuses in the order "concat", by plain means. It prints start layers for every strategy, and its lower
    fusion ends with layer 19 (section 4.1).
    """
    if (line.get("order", "concat"), line.get("weighting", "mean")) != ("concat", "mean"):
        return ()
    start_layer = line["start_layer"] if line["strategy"] == "upper" else None
    if line["strategy"] == "lower" and line.get("stop_layer", 19) != 19:
        return ()
    r = 0 if line["strategy"] == "none" else line["r"]
    backbone = BACKBONES[line["backbone"]].stands_for or line["backbone"]
    return backbone, line["strategy"], start_layer, None if pd.isna(r) else r
