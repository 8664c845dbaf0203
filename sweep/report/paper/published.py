"""The published tables of Famba-V as data frames."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from famba_core.paper.published import read_published_table


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
