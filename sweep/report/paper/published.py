"""The published results of Famba-V (Shen, Wan, Wang, Zhang; CIFAR-100, the authors' GPU) as data: see README.md."""

from __future__ import annotations

from importlib.resources import files

import pandas as pd

UNFUSED_TABLE = 1  # the only table of the paper that shows the models without fusion


def paper_table(number: int) -> pd.DataFrame:
    """Table 1, 2 or 3 of Famba-V in its row order, after the unfused row of each backbone in it.

    Columns: backbone, strategy, start_layer (first fusing layer, missing without fusion), r (0 without fusion),
    top1_pct, top5_pct, train_time_s, peak_memory_mib, and the last two as train_time_ratio and peak_memory_ratio to
    the unfused row of the same backbone, which tables 2 and 3 take from Table 1.
    """
    table = _read(number)
    unfused = _read(UNFUSED_TABLE).query("strategy == 'none'")
    if number != UNFUSED_TABLE:
        table = pd.concat([unfused[unfused["backbone"].isin(table["backbone"])], table], ignore_index=True)
    reference = unfused.set_index("backbone").loc[table["backbone"]].reset_index()
    table["train_time_ratio"] = table["train_time_s"] / reference["train_time_s"]
    table["peak_memory_ratio"] = table["peak_memory_mib"] / reference["peak_memory_mib"]
    return table


def _read(number: int) -> pd.DataFrame:
    with (files("famba_core.paper") / f"famba_v_table{number}.csv").open() as file:
        return pd.read_csv(file, dtype={"start_layer": "Int64", "r": "Int64"})
