"""The published tables of Famba-V as data frames, each beside the unfused models that it is compared with."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from famba_core.paper.published import read_published_table

UNFUSED_TABLE = 1  # the only table of the paper that shows the models without fusion


def paper_table(number: int) -> pd.DataFrame:
    """Return Table 1, 2 or 3 of Famba-V in its row order, after the unfused row of each backbone in it.

    The columns are those of `PublishedRow` (start_layer is missing without fusion), and train_time_ratio and
    peak_memory_ratio to the unfused row of the same backbone, which tables 2 and 3 take from Table 1.
    """
    rows = read_published_table(number)
    unfused = {row.backbone: row for row in read_published_table(UNFUSED_TABLE) if row.strategy == "none"}
    if number != UNFUSED_TABLE:
        backbones = {row.backbone for row in rows}
        rows = (*(row for row in unfused.values() if row.backbone in backbones), *rows)
    return pd.DataFrame(
        [
            {
                **asdict(row),
                "train_time_ratio": row.train_time_s / unfused[row.backbone].train_time_s,
                "peak_memory_ratio": row.peak_memory_mib / unfused[row.backbone].peak_memory_mib,
            }
            for row in rows
        ]
    ).astype({"start_layer": "Int64", "r": "Int64"})
