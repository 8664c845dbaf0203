"""Arrow schemas of dataclasses whose fields are the columns of a Parquet file."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, get_origin, get_type_hints

from famba_core.errors import unwrap_optional

if TYPE_CHECKING:
    import pyarrow as pa


def arrow_schema(row_type: type, column_types: Mapping[Any, pa.DataType] | None = None) -> pa.Schema:
    """Return the schema of a dataclass, from its annotations: `X | None` is nullable, a Literal is a string.

    column_types: replaces the Arrow types of the given annotations.
    """
    import pyarrow as pa

    arrow = {
        bool: pa.bool_(),
        int: pa.int64(),
        float: pa.float64(),
        str: pa.string(),
        dt.datetime: pa.timestamp("us", tz="UTC"),
        tuple[int, ...]: pa.list_(pa.int64()),
        **(column_types or {}),
    }
    hints = get_type_hints(row_type)
    columns = []
    for field in fields(row_type):
        hint = hints[field.name]
        kind = unwrap_optional(hint)
        column = pa.string() if get_origin(kind) is Literal else arrow[kind]
        columns.append(pa.field(field.name, column, nullable=kind is not hint))
    return pa.schema(columns)
