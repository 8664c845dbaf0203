"""Rows: their ratios, the Parquet file, and the tables."""

from dataclasses import fields, replace

import pyarrow.parquet as pq
import pytest

from famba_core.bench.rows import BenchRow, fastest, with_ratios, write_parquet
from famba_core.bench.table import section_text

ROW = BenchRow(
    section="step", name="none", backend="auto", backbone="vim_tiny", precision="float32", batch=8, tokens=197,
    layers=24, median_ms=400.0, q25_ms=390.0, q75_ms=410.0, n=7, images_per_s=20.0, peak_mib=500.0,
    saved_bytes_per_image=1000.0, device="a device", threads=2, versions="torch 0",
)  # fmt: skip
UPPER = replace(
    ROW, name="upper", strategy="upper", schedule=(0, 9, 9), median_ms=300.0, images_per_s=25.0, peak_mib=350.0,
    saved_bytes_per_image=650.0,
)  # fmt: skip
FAILED = replace(
    ROW, name="bad", status="failed", note="RuntimeError: no", median_ms=None, q25_ms=None, q75_ms=None, n=0,
    images_per_s=None, peak_mib=None, saved_bytes_per_image=None,
)  # fmt: skip


def test_ratios_are_of_time_per_image_memory_and_saved_bytes():
    none, upper, failed = with_ratios([ROW, UPPER, FAILED], ROW)
    assert (none.time_ratio, none.memory_ratio, none.saved_ratio) == (1.0, 1.0, 1.0)
    assert (upper.time_ratio, upper.memory_ratio, upper.saved_ratio) == (0.8, 0.7, 0.65)
    assert (failed.time_ratio, failed.memory_ratio, failed.saved_ratio) == (None, None, None)
    assert {row.ratio_to for row in (none, upper, failed)} == {"none"}


def test_different_batches_are_compared_per_image():
    peer = replace(ROW, name="peer", batch=2, median_ms=1000.0, images_per_s=2.0)
    assert with_ratios([peer], ROW)[0].time_ratio == 10.0


def test_fastest_row_has_the_most_images_per_second():
    assert fastest([ROW, FAILED, UPPER]) is UPPER
    assert fastest([FAILED]) is None


def test_parquet_contains_every_column(tmp_path):
    rows = [ROW, *with_ratios([UPPER, FAILED], ROW)]
    path = tmp_path / "bench.parquet"
    write_parquet(rows, path, {"heading": "text"})
    table = pq.read_table(path)
    assert table.column_names == [f.name for f in fields(BenchRow)]
    found = [BenchRow(**{**row, "schedule": tuple(row["schedule"])}) for row in table.to_pylist()]
    assert found == rows
    assert table.schema.metadata[b"heading"] == b"text"
    assert not table.schema.field("batch").nullable
    assert table.schema.field("peak_mib").nullable
    write_parquet(rows[:1], path, {})
    assert pq.read_table(path).num_rows == 1
    assert [p.name for p in tmp_path.iterdir()] == ["bench.parquet"]


def test_tables_show_measured_rows_and_name_the_others():
    text = section_text("step", with_ratios([ROW, UPPER, FAILED], ROW))
    measured = [line.split() for line in text.splitlines() if line.strip().startswith("upper")]
    assert measured[0] == ["upper", "float32", "8", "300.00", "390.0-410.0", "7", "25.0", "350", "-"]
    assert measured[1] == ["upper", "float32", "-", "0.800", "-", "-", "0.700", "-", "-", "0.650", "-"]
    assert "failed: bad (auto, float32): RuntimeError: no" in text
    assert not any(line.strip().startswith("bad") for line in text.splitlines())


@pytest.mark.parametrize("section", ["scan", "step", "growth-depth", "roofline"])
def test_section_without_rows_has_no_table(section):
    assert section_text(section, []) == ""
