"""The published tables of Famba-V as data frames, and beside the table of a study."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from famba_core.backbones import BACKBONES
from famba_core.paper.published import read_published_table

# What a study's table shows of the paper.
COLUMNS = ("top1_pct", "top5_pct", "train_time_s", "peak_memory_mib", "train_time_ratio", "peak_memory_ratio")


def paper_table(number: int) -> pd.DataFrame:
    """Return Table 1, 2 or 3 of Famba-V in its row order, after the unfused row of each backbone in it.

    Columns: those of `PublishedRow` (start_layer is missing without fusion), and train_time_ratio and peak_memory_ratio
    to the unfused row of the same backbone, which Tables 2 and 3 take from Table 1.
    """
    rows = read_published_table(number)
    backbones = {row.backbone for row in rows}
    unfused = [row for row in read_published_table(1) if row.strategy == "none" and row.backbone in backbones]
    table = pd.DataFrame(map(asdict, rows if number == 1 else (*unfused, *rows)))
    reference = table[table["strategy"] == "none"].set_index("backbone").loc[table["backbone"]].reset_index()
    return table.astype({"start_layer": "Int64", "r": "Int64"}).assign(
        train_time_ratio=table["train_time_s"] / reference["train_time_s"],
        peak_memory_ratio=table["peak_memory_mib"] / reference["peak_memory_mib"],
    )


def beside_published(table: pd.DataFrame, number: int) -> pd.DataFrame:
    """Add the published columns and sort the lines: first unfused ones, then the paper's order, then what it lacks."""
    paper = paper_table(number)
    position_of = {_published_key(line): position for position, line in enumerate(paper.to_dict("records"))}
    positions = []
    for line in table.to_dict("records"):
        unpublished = -1 if line["strategy"] == "none" else len(paper)
        positions.append(position_of.get(_published_key(line), unpublished))
    published = paper[list(COLUMNS)].reindex(positions).add_prefix("published_").set_axis(table.index)
    return table.join(published).iloc[np.argsort(positions, kind="stable")].reset_index(drop=True)


def _published_key(line: dict[Hashable, Any]) -> tuple[Any, ...]:
    """Return what a measured and a published line have in common. A small backbone stands for a published one.

    The paper fuses in the order "concat", by plain means. It prints start layers for every strategy, and its lower
    fusion ends with layer 19 (section 4.1).
    """
    if (line.get("order", "concat"), line.get("weighting", "mean")) != ("concat", "mean"):
        return ()
    if line["strategy"] == "lower" and line.get("stop_layer", 19) != 19:
        return ()
    start_layer = line["start_layer"] if line["strategy"] == "upper" else None
    r = 0 if line["strategy"] == "none" else line["r"]
    backbone = BACKBONES[line["backbone"]].stands_for or line["backbone"]
    return backbone, line["strategy"], start_layer, None if pd.isna(r) else r
