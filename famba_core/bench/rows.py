"""The row of one measurement, which is the only schema of the benchmark, and the Parquet file of all rows."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from famba_core.arrow import arrow_schema
from famba_core.files import write_atomically

Status = Literal["measured", "skipped", "failed"]


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One measurement. A value that was not measured is None. Ratios are to the row named by `ratio_to`."""

    section: str
    name: str  # a backend, a fusion strategy or a size
    status: Status = "measured"
    note: str | None = None  # why it was skipped or failed
    backend: str  # that was requested, such as "auto"
    peer: bool = False  # True for another project's implementation
    backbone: str
    precision: str
    batch: int  # images
    tokens: int  # at the first layer, class token included
    layers: int
    recompute: bool = False
    strategy: str = "none"
    schedule: tuple[int, ...] = ()  # tokens removed in each layer
    reduced_tokens: int = 0

    median_ms: float | None = None
    q25_ms: float | None = None
    q75_ms: float | None = None
    n: int = 0  # timed calls
    images_per_s: float | None = None
    peak_mib: float | None = None  # of tensors on the CPU, of the allocator on CUDA
    saved_bytes_per_token: float | None = None  # saved for backward, per token, layer and image
    saved_bytes_per_image: float | None = None
    fusion_ms: float | None = None  # of matching and merging, forward and backward, all layers
    fusion_pct: float | None = None  # fusion_ms as a share of the step

    ratio_to: str | None = None
    token_ratio: float | None = None  # tokens that the mixers see, summed over the layers
    time_ratio: float | None = None  # time per image
    memory_ratio: float | None = None
    saved_ratio: float | None = None
    predicted_time_ratio: float | None = None
    predicted_memory_ratio: float | None = None
    predicted_peak_mib: float | None = None
    paper_time_ratio: float | None = None  # Famba-V Table 1
    paper_memory_ratio: float | None = None

    limit_matmul_ms: float | None = None  # minimum time at the device's peak rates, for each resource
    limit_vector_ms: float | None = None
    limit_memory_ms: float | None = None
    limit_pct: float | None = None  # achieved share of the limit, if all resources work concurrently
    limit_serial_pct: float | None = None  # achieved share of the limit, if they work one after the other
    limit_source: str | None = None

    device: str
    threads: int | None = None  # of the CPU; None on CUDA
    versions: str  # of torch and of the other packages that compute


def with_ratios(rows: Sequence[BenchRow], reference: BenchRow) -> list[BenchRow]:
    """Return the rows with their ratios to `reference`; a ratio is None if one of its values is."""
    return [
        replace(
            row,
            ratio_to=reference.name,
            time_ratio=_ratio(reference.images_per_s, row.images_per_s),
            memory_ratio=_ratio(row.peak_mib, reference.peak_mib),
            saved_ratio=_ratio(row.saved_bytes_per_image, reference.saved_bytes_per_image),
        )
        for row in rows
    ]


def fastest(rows: Sequence[BenchRow]) -> BenchRow | None:
    """Return the row with the most images per second, or None if none was measured."""
    return max((row for row in rows if row.images_per_s), key=lambda row: row.images_per_s or 0.0, default=None)


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def write_parquet(rows: Sequence[BenchRow], path: Path, metadata: Mapping[str, str]) -> None:
    """Write all rows, replacing the file atomically. Raises OSError if that fails."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = arrow_schema(BenchRow, {tuple[int, ...]: pa.list_(pa.int32())}).with_metadata(dict(metadata))
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
    content = io.BytesIO()
    pq.write_table(table, content)
    write_atomically(path, content.getbuffer())
