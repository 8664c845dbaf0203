"""The reader of the published tables."""

import pytest

from famba_core.paper.published import PublishedRow, read_published_table


@pytest.mark.parametrize(("number", "rows"), [(1, 10), (2, 14), (3, 9)])
def test_a_published_table_has_all_its_rows(number, rows):
    assert len(read_published_table(number)) == rows


def test_an_unfused_row_has_no_start_layer_and_r_0():
    assert read_published_table(1)[0] == PublishedRow(
        backbone="vim_tiny",
        strategy="none",
        start_layer=None,
        r=0,
        top1_pct=70.1,
        top5_pct=90.6,
        train_time_s=16382,
        peak_memory_mib=8302,
    )
