"""The three kinds of stored rows: results, learning curves and measurements."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from famba_core.arrow import arrow_schema
from sweep.schema import EpochRow, MeasureRow, ResultRow


@dataclass(frozen=True, kw_only=True)
class RowKind:
    """One kind of stored row: its type, key and sort order."""

    name: str  # also of the folder that holds its parts
    row_type: type
    key: tuple[str, ...]  # the columns whose values name a part
    sort_columns: tuple[str, ...]  # the key, and one more column where a part has several rows

    @cached_property
    def schema(self) -> pa.Schema:
        return arrow_schema(self.row_type)

    @property
    def may_be_empty(self) -> bool:
        """True if a part may have no row: the curve of a trial that failed in its first epoch."""
        return self.sort_columns != self.key

    def part_name(self, *key: str | int) -> str:
        """Return the file name of the part with this key."""
        return f"{'.'.join(map(str, key))}.parquet"

    def part_names(self, table: pa.Table) -> set[str]:
        """Return the file names of the parts that these rows belong to."""
        keys = zip(*(table[column].to_pylist() for column in self.key), strict=True)
        return {self.part_name(*key) for key in keys}


_ATTEMPT = ("trial_id", "attempt")
TRIALS = RowKind(name="trials", row_type=ResultRow, key=_ATTEMPT, sort_columns=_ATTEMPT)
EPOCHS = RowKind(name="epochs", row_type=EpochRow, key=_ATTEMPT, sort_columns=(*_ATTEMPT, "epoch"))
MEASUREMENTS = RowKind(name="measurements", row_type=MeasureRow, key=("measure_id",), sort_columns=("measure_id",))
ROW_KINDS = (TRIALS, EPOCHS, MEASUREMENTS)
COMPACTED_KINDS = (TRIALS, EPOCHS)  # not measurements, which may be replaced by those of another device
