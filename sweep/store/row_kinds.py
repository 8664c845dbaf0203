"""What the parts of a study hold."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from sweep.schema import EpochRow, MeasureRow, ResultRow, arrow_schema


@dataclass(frozen=True, kw_only=True)
class RowKind:
    """What a folder of parts holds."""

    name: str  # of the folder
    row_type: type
    key: tuple[str, ...]  # the columns that name a part; the first is also the name of other files
    sort_columns: tuple[str, ...]  # of the rows; longer than the key where a part has several

    @property
    def schema(self) -> pa.Schema:
        return arrow_schema(self.row_type)

    @property
    def may_be_empty(self) -> bool:
        """Whether a part may have no row, as the curve of a trial that failed in its first epoch."""
        return self.sort_columns != self.key

    def part_names(self, table: pa.Table) -> set[str]:
        """Of the parts that these rows come from."""
        keys = zip(*(table[column].to_pylist() for column in self.key), strict=True)
        return {f"{'.'.join(map(str, key))}.parquet" for key in keys}


TRIALS = RowKind(name="trials", row_type=ResultRow, key=("trial_id", "attempt"), sort_columns=("trial_id", "attempt"))
EPOCHS = RowKind(
    name="epochs", row_type=EpochRow, key=("trial_id", "attempt"), sort_columns=("trial_id", "attempt", "epoch")
)
MEASUREMENTS = RowKind(name="measurements", row_type=MeasureRow, key=("measure_id",), sort_columns=("measure_id",))
ROW_KINDS = (TRIALS, EPOCHS, MEASUREMENTS)
COMPACTED_KINDS = (TRIALS, EPOCHS)  # written once; a step may be measured again, on another device


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of an older version: columns that it lacks are missing numbers, columns since removed are dropped."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
