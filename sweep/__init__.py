"""Sweeps over compressed Vision Mamba models: `load_results` gives a study's results as a pandas frame."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def load_results(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """The results of a study, such as "results/starting_layer-laptop": one row per attempt at a trial.

    Columns are those of `sweep.schema.ResultRow`; only rows whose status is "completed" enter the tables.
    Warns about parts that cannot be read. Raises UserError if the folder holds no study.
    """
    from sweep import store  # here, so that `import sweep` stays light

    return store.load_results(folder)
