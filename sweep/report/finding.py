"""What a study has found: two sentences that follow from its table alone."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from sweep.report.pareto import frontier_rows

TOP1 = "top1_best_pct"


def describe_finding(table: pd.DataFrame, objectives: dict[str, str], test_images: int | None) -> tuple[str, str]:
    """Return what the cheapest good configuration saves, and how far that can be trusted.

    That is, of the configurations on the frontier of all objectives whose top-1 is not below that of the row without
    fusion of the same backbone by more than the noise, the one with the least training time. The noise is the binomial
    standard error of the unfused top-1 on the test set or, if it is larger, the standard deviation over the seeds.

    Args:
        table: from `build_table`.
        test_images: size of the test set; None if it is not known.
    """
    measured = table[table[TOP1].notna()]
    unfused = measured[measured["strategy"] == "none"].drop_duplicates("backbone").set_index("backbone")
    fused = measured[(measured["strategy"] != "none") & measured["backbone"].isin(unfused.index)]
    if fused.empty:
        lacking = "a row with fusion" if len(unfused) else "the row without fusion"
        return f"No finding yet: {lacking} is missing.", "The same command trains what is missing."
    before = unfused.loc[fused["backbone"]].set_index(fused.index)
    gain = fused[TOP1] - before[TOP1]
    error = (before[TOP1] * (100 - before[TOP1]) / test_images) ** 0.5 if test_images else 0 * gain
    noise = pd.concat([error, fused[f"{TOP1}_std"], before[f"{TOP1}_std"]], axis=1).max(axis=1)
    on_frontier = frontier_rows(table, objectives, ()).index
    good = fused.index[fused.index.isin(on_frontier) & (gain >= -noise)]
    best: Any = fused.loc[good, "train_time_ratio"].fillna(math.inf).idxmin() if len(good) else gain.idxmax()
    return (
        _compare(fused.loc[best], gain[best], noise[best], is_good=len(good) > 0),
        _say_trust(fused.loc[best], before.loc[best], noise[best], test_images),
    )


def _compare(row: pd.Series, gain: float, noise: float, *, is_good: bool) -> str:
    """Return a sentence on a configuration beside the row without fusion."""
    points = f"top-1 {abs(gain):.1f} points {'lower' if gain < 0 else 'higher'}"
    saved = [points if abs(gain) > noise else "same top-1 within noise"]
    for column, what in (("train_time_ratio", "time"), ("peak_memory_ratio", "memory")):
        if not math.isnan(row[column]):
            change = round(100 * (row[column] - 1))
            saved.append(f"{abs(change)}% {'less' if change < 0 else 'more'} {what}" if change else f"same {what}")
    sentence = f"{row['configuration']} against no fusion: {', '.join(saved)}."
    return sentence if is_good else f"No row on the frontier keeps the top-1; the nearest is {sentence}"


def _say_trust(row: pd.Series, before: pd.Series, noise: float, test_images: int | None) -> str:
    seeds = int(min(row["seeds_measured"], before["seeds_measured"]))
    parts = [f"the standard error on {test_images:,} test images"] if test_images else []
    parts += ["the spread of the seeds"] if seeds > 1 else []
    if not parts:
        return "There is a single seed and the test set's size is not known: nothing says how large the noise is."
    source = f"the larger of {parts[0]} and {parts[1]}" if len(parts) > 1 else parts[0]
    trust = f"over {seeds} seeds" if seeds > 1 else "of a single seed: train more before you rely on it"
    return f"Noise is {noise:.1f} points, {source}, {trust}."
