"""Sweeps over compressed Vision Mamba models: `load_results` and `load_epochs` give a study as pandas frames."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def load_results(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the results of a study, such as "results/starting_layer-laptop": one row per attempt at a trial.

    Columns are those of `sweep.schema.ResultRow`; only rows whose status is "completed" enter the tables.
    Warns about parts that cannot be read. Raises UserError if the folder holds no study.
    """
    from sweep.store import study  # here, so that `import sweep` stays light

    return study.load(folder, study.read_rows)


def load_epochs(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the learning curves of a study: one row per epoch of an attempt.

    Columns are those of `sweep.schema.EpochRow`. Warns and raises as `load_results` does.
    """
    from sweep.store import study

    return study.load(folder, study.read_epochs)
