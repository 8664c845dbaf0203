"""A study to compact, and the content that must survive: rows, rungs and logs."""

import pandas as pd
from synthetic_study import results, table_plan

from sweep.grid.search import EarlyStop
from sweep.store import study as store
from sweep.store.row_kinds import ROW_KINDS
from sweep.store.rungs import continues, read_rung

PLAN = table_plan(2)
ROWS = results(PLAN)


def everything(folder):
    """Return all rows of a study."""
    frames = [read(folder) for read in (store.read_rows, store.read_epochs, store.read_measurements)]
    assert [damaged for _, damaged in frames] == [[], [], []]
    return [frame for frame, _ in frames]


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        pd.testing.assert_frame_equal(one, other)


def loose(folder):
    return sorted(str(path.relative_to(folder)) for kind in ROW_KINDS for path in folder.glob(f"{kind.name}/*.parquet"))


def leave_rungs_and_logs(folder, names):
    for epoch in (1, 3):
        for name in names:
            continues(folder, "group", name, epoch, float(ord(name)), EarlyStop(min_epochs=1, reduction_factor=3))
    (folder / "logs").mkdir(exist_ok=True)
    for name in names:
        (folder / "logs" / f"{name}.1.txt").write_text(f"the traceback of {name}")


def assert_rungs_and_logs(folder, names):
    for epoch in ("1", "3"):
        arrived = read_rung(folder / "rungs" / "group" / epoch)
        assert {name: (at.value, at.goes_on) for name, at in arrived.items()} == {
            name: (float(ord(name)), True) for name in names
        }
    logs = [log.read_text() for log in (folder / "logs").glob("*.txt")]
    assert all(any(f"the traceback of {name}" in log for log in logs) for name in names)
