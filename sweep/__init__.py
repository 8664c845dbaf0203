"""Sweeps over compressed Vision Mamba models: `load_results` and `load_epochs` give a study as pandas frames."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from sweep.errors import UserError
    from sweep.grid.spec import load_spec
    from sweep.plan.build import make_plan
    from sweep.report.write import write_report
    from sweep.run.runner import run_plan

__all__ = ["UserError", "load_epochs", "load_results", "load_spec", "make_plan", "run_plan", "write_report"]

# imported when they are used, so that `import sweep` stays light
_LAZY = {
    "UserError": "sweep.errors",
    "load_spec": "sweep.grid.spec",
    "make_plan": "sweep.plan.build",
    "run_plan": "sweep.run.runner",
    "write_report": "sweep.report.write",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__


def load_results(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the results of a study, such as "results/starting_layer-laptop": one row per attempt at a trial.

    A folder of studies, such as "results", gives the rows of all studies below it, compacted or not.

    Columns are those of `sweep.schema.ResultRow`; only rows whose status is "completed" enter the tables. Added are
    `planned`, false for trials that the study's plan no longer asks for (missing if the plan cannot be read), and
    `folder`, the study's. Warns about parts that cannot be read. Raises UserError if the folder holds no study.
    """
    from sweep.report.load import load  # here, so that `import sweep` stays light
    from sweep.store.study import read_rows

    return load(folder, read_rows)


def load_epochs(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the learning curves of a study, or of all studies below a folder: one row per epoch of an attempt.

    Columns are those of `sweep.schema.EpochRow`, `planned` and `folder`. Warns and raises as `load_results` does.
    """
    from sweep.report.load import load
    from sweep.store.study import read_epochs

    return load(folder, read_epochs)
