"""Selects one row per trial from all stored attempts."""

from __future__ import annotations

import pandas as pd


def select_outcomes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per stored trial, indexed by trial_id: its first completed attempt, else its last attempt.

    Args:
        rows: as `read_rows` returns them, with at least trial_id, attempt and status.
    """
    done = rows["status"] == "completed"
    rank = rows["attempt"].where(~done, -rows["attempt"])
    ranked = rows.assign(done=done, rank=rank).sort_values(["trial_id", "done", "rank"])
    return ranked.drop(columns=["done", "rank"]).drop_duplicates("trial_id", keep="last").set_index("trial_id")


def select_completed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the outcomes that are completed, which enter the tables."""
    return select_outcomes(rows).query("status == 'completed'").reset_index()
