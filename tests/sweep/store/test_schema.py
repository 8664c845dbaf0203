"""The columns of a study: the promised ones exist, and types follow the annotations."""

import typing
from dataclasses import fields

import pyarrow as pa
import pytest

from famba_core.arrow import arrow_schema
from sweep.schema import EpochRow, MeasureRow, ResultRow

PROMISED = {
    "study",
    "trial_id",
    "attempt",
    "status",
    "error",
    "backbone",
    "strategy",
    "start_layer",
    "stop_layer",
    "r",
    "order",
    "weighting",
    "schedule",
    "reduced_tokens",
    "tokens_per_image",
    "dataset",
    "profile",
    "image_size",
    "epochs",
    "batch_size",
    "precision",
    "seed",
    "parameters",
    "measured",
    "top1_pct",
    "top5_pct",
    "top1_best_pct",
    "top1_ema_pct",
    "train_time_s",
    "wall_time_s",
    "step_time_ms",
    "throughput_img_per_s",
    "peak_memory_mib",
    "flops_per_image",
    "device_name",
    "torch_version",
    "git_commit",
    "started_at",
    "finished_at",
}


def test_the_promised_columns_exist():
    assert set(arrow_schema(ResultRow).names) >= PROMISED


@pytest.mark.parametrize("row_type", [ResultRow, EpochRow, MeasureRow])
def test_columns_are_the_fields_in_order(row_type):
    assert arrow_schema(row_type).names == [field.name for field in fields(row_type)]


@pytest.mark.parametrize("row_type", [ResultRow, EpochRow, MeasureRow])
def test_only_optional_fields_may_be_null(row_type):
    hints = typing.get_type_hints(row_type)
    for column in arrow_schema(row_type):
        assert column.nullable == (type(None) in typing.get_args(hints[column.name])), column.name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("attempt", pa.int64()),
        ("start_layer", pa.int64()),
        ("top1_pct", pa.float64()),
        ("status", pa.string()),
        ("measured", pa.string()),
        ("schedule", pa.list_(pa.int64())),
        ("started_at", pa.timestamp("us", tz="UTC")),
    ],
)
def test_column_types_follow_the_annotations(name, kind):
    assert arrow_schema(ResultRow).field(name).type == kind
