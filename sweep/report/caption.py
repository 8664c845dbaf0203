"""The caption of a report's table."""

from __future__ import annotations

import pandas as pd

from sweep.report.study_data import StudyData
from sweep.text import plural


def table_caption(data: StudyData, table: pd.DataFrame) -> str:
    """Return the sentences below a table: what was run, where, how much of it is done, and how to read it."""
    plan, trial = data.plan, data.plan.trials[0]
    name = f"Table {plan.paper_table} of Famba-V, measured" if plan.paper_table else "Measured"
    pixels, devices = trial.model.image_size, " and ".join(data.distinct("device_name")) or "no device yet"
    sentences = [
        f"{name}: study {plan.study}, profile {plan.profile} ({trial.data.dataset}, {pixels} x {pixels} pixels, "
        f"{plural(trial.train.epochs, 'epoch')}), on {devices}",
        f"{int((table['seeds_measured'] == table['seeds_planned']).sum())} of {plural(len(table), 'row')} measured",
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
