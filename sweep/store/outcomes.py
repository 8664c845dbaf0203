"""TODO."""

from __future__ import annotations

import pandas as pd


def select_outcomes(rows: pd.DataFrame) -> pd.DataFrame:
    """The row that counts for each stored trial, by trial_id: its first completed attempt, or without one its last."""
    done = rows["status"] == "completed"
    rank = rows["attempt"].where(~done, -rows["attempt"])
    ranked = rows.assign(done=done, rank=rank).sort_values(["trial_id", "done", "rank"])
    return ranked.drop(columns=["done", "rank"]).drop_duplicates("trial_id", keep="last").set_index("trial_id")


def select_completed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that enter tables: those outcomes that are completed."""
    return select_outcomes(rows).query("status == 'completed'").reset_index()
