"""The table: which published row is beside a line, means over seeds, and where times come from."""

import dataclasses
import statistics

import numpy as np
import pandas as pd
import pytest
from synthetic_study import data_of, result, results, save, table_plan

from famba_core.config import FusionSchedule
from sweep.report import table_text
from sweep.report.published import COLUMNS, paper_table
from sweep.report.tables import build_table, table_caption
from sweep.store import study as store


def frame(folder, rows):
    return store.read_rows(save(folder, rows))[0]


# r and what goes in each layer


def printed(table):
    return {column.full_heading: column.cells for column in table_text.printed_columns(table)}


def test_the_papers_r_is_headed_so_and_stands_beside_what_went_in_each_layer(tmp_path):
    plan = table_plan(3)
    columns = printed(build_table(data_of(plan, frame(tmp_path, results(plan)))))
    assert columns["r (paper)"][:3] == ("–", "9", "8")
    assert columns["In each layer"][:3] == ("–", "2–3", "2–3")  # 56 and 50 tokens in 19 layers
    assert "r" not in columns


def test_an_r_that_is_r_stands_alone(tmp_path):
    plan = table_plan(3)
    trials = [
        dataclasses.replace(
            trial, fusion=FusionSchedule(schedule=(0,) * 5 + (plan.first_cases[trial.trial_id].r or 0,) * 19)
        )
        for trial in plan.trials
    ]
    plan = dataclasses.replace(plan, trials=tuple(trials))
    columns = printed(build_table(data_of(plan, frame(tmp_path, results(plan)))))
    assert columns["r"][1:3] == ("9", "8")
    assert not {"r (paper)", "In each layer"} & set(columns)


# the published tables


@pytest.mark.parametrize(("number", "rows"), [(1, 10), (2, 15), (3, 10)])
def test_a_published_table_begins_with_its_unfused_row(number, rows):
    table = paper_table(number)
    assert len(table) == rows
    assert table.loc[0, ["backbone", "strategy", "train_time_s", "peak_memory_mib"]].tolist() == [
        "vim_tiny",
        "none",
        16382,
        8302,
    ]


@pytest.mark.parametrize(
    ("number", "strategy", "start_layer", "r", "time", "memory"),
    [
        (1, "all", 1, 7, 0.904, 0.662),
        (1, "interleaved", 2, 14, 0.877, 0.645),
        (1, "lower", 1, 9, 0.864, 0.571),
        (1, "upper", 6, 9, 0.911, 0.722),
        (2, "upper", 15, 15, 0.960, 0.865),
        (3, "upper", 6, 1, 1.035, 1.047),
    ],
)
def test_published_ratios(number, strategy, start_layer, r, time, memory):
    """The expected ratios to Table 1's Vim-Ti without fusion were divided by hand."""
    line = (
        paper_table(number)
        .query(f"backbone == 'vim_tiny' and strategy == '{strategy}' and start_layer == {start_layer} and r == {r}")
        .iloc[0]
    )
    assert round(line["train_time_ratio"], 3) == time
    assert round(line["peak_memory_ratio"], 3) == memory


def test_published_ratios_of_the_small_model_are_to_the_small_model():
    line = paper_table(1).query("backbone == 'vim_small' and strategy == 'upper'").iloc[0]
    assert line["train_time_ratio"] == 22768 / 27976
    assert line["peak_memory_ratio"] == 12161 / 16439


# beside the published rows


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_published_row_is_matched(number, tmp_path):
    plan = table_plan(number)
    shuffled = dataclasses.replace(plan, cases=tuple(reversed(plan.cases)))
    table = build_table(data_of(shuffled, frame(tmp_path, results(plan))))
    published = paper_table(number)
    for name in COLUMNS:
        np.testing.assert_array_equal(table[f"published_{name}"].to_numpy(float), published[name].to_numpy(float))


def test_rows_that_the_paper_lacks_come_last_and_an_unfused_one_first(tmp_path):
    plan = table_plan(2)
    cases = [
        dataclasses.replace(plan.cases[0], backbone="vim_base"),
        dataclasses.replace(plan.cases[3], r=99),
        *plan.cases,
    ]
    table = build_table(data_of(dataclasses.replace(plan, cases=tuple(cases)), frame(tmp_path, results(plan))))
    assert table["backbone"].iloc[0] == "vim_base"
    assert table["r"].iloc[-1] == 99
    assert table["published_top1_pct"].isna().tolist() == [True, *[False] * 15, True]


def test_a_grid_without_a_published_table_keeps_its_order(tmp_path):
    plan = dataclasses.replace(table_plan(2), paper_table=None)
    table = build_table(data_of(plan, frame(tmp_path, results(plan))))
    assert table["start_layer"].dropna().tolist() == [case.start_layer for case in plan.cases[1:]]
    assert not [name for name in table if name.startswith("published")]


# what is measured


def test_ratios_are_to_the_unfused_row_of_the_same_backbone(tmp_path):
    plan = table_plan(1)
    rows = {(row.backbone, row.strategy): row for row in results(plan)}
    table = build_table(data_of(plan, frame(tmp_path, rows.values())))
    for line in table.to_dict("records"):
        row, unfused = rows[line["backbone"], line["strategy"]], rows[line["backbone"], "none"]
        assert line["train_time_ratio"] == pytest.approx(row.train_time_s / unfused.train_time_s)
        assert line["peak_memory_ratio"] == pytest.approx(row.peak_memory_mib / unfused.peak_memory_mib)


def test_without_the_unfused_row_there_are_no_ratios(tmp_path):
    plan = table_plan(2)
    table = build_table(data_of(plan, frame(tmp_path, results(plan)[1:])))
    assert table["train_time_ratio"].isna().all()
    assert table["published_train_time_ratio"].notna().all()


def test_seeds_are_averaged(tmp_path):
    plan = table_plan(2, seeds=(0, 1, 2))
    rows = results(plan)
    table = build_table(data_of(plan, frame(tmp_path, rows)))
    assert len(table) == 15
    for line in table.to_dict("records"):
        values = [
            row.top1_best_pct
            for row in rows
            if (row.start_layer or 0, row.r or 0)
            == tuple(0 if pd.isna(line[name]) else line[name] for name in ("start_layer", "r"))
        ]
        assert len(values) == line["seeds_measured"] == 3
        assert line["top1_best_pct"] == pytest.approx(statistics.mean(values))
        assert line["top1_best_pct_std"] == pytest.approx(statistics.stdev(values))


def test_one_seed_has_no_standard_deviation(tmp_path):
    plan = table_plan(2)
    table = build_table(data_of(plan, frame(tmp_path, results(plan))))
    assert table["top1_best_pct_std"].isna().all()


def test_unmeasured_columns_are_missing_and_not_zero(tmp_path):
    plan = table_plan(2)
    table = build_table(data_of(plan, frame(tmp_path, results(plan))))
    assert table["step_time_ms"].isna().all()


def test_cases_with_one_schedule_share_a_trial(tmp_path):
    plan = table_plan(3)
    shared = plan.cases[1].trial_id
    cases = (*plan.cases[:2], dataclasses.replace(plan.cases[2], trial_id=shared), *plan.cases[3:])
    table = build_table(data_of(dataclasses.replace(plan, cases=cases), frame(tmp_path, results(plan))))
    assert table["train_time_s"].iloc[1] == table["train_time_s"].iloc[2]
    assert table["r"].iloc[1] != table["r"].iloc[2]


def test_failed_and_pruned_rows_leave_dashes_and_a_note(tmp_path):
    plan = table_plan(2)
    first, second, third, fourth = plan.trials[:4]
    rows = frame(
        tmp_path,
        [
            result(first, top1_best_pct=50.0),
            result(second, status="failed", error="x", top1_best_pct=1.0),
            result(third, status="pruned", top1_best_pct=2.0),
            result(fourth, status="failed", error="x"),
            result(fourth, attempt=2, top1_best_pct=60.0),
        ],
    )
    table = build_table(data_of(plan, rows))
    assert table["top1_best_pct"].dropna().tolist() == [50.0, 60.0]
    notes = table_text.printed_columns(table)[-1]
    assert (notes.heading, notes.cells[:5]) == ("Note", ("", "failed", "not measured", "", "not measured"))
    assert "2 of 15 rows measured" in table_caption(data_of(plan, rows), table)


def test_any_objective_is_averaged(tmp_path):
    plan = dataclasses.replace(table_plan(2), objectives={"final_loss": "min"})
    rows = [dataclasses.replace(row, final_loss=float(i)) for i, row in enumerate(results(plan))]
    assert build_table(data_of(plan, frame(tmp_path, rows)))["final_loss"].tolist() == list(range(15))


def test_configurations_have_distinct_names(tmp_path):
    for number in (1, 2, 3):
        plan = table_plan(number)
        names = build_table(data_of(plan, frame(tmp_path / str(number), [])))["configuration"]
        assert names.is_unique
    assert names.tolist()[:2] == ["no fusion", "start 6, r 9"]


# where the times come from


def isolated(row):
    """Return the row with an isolated measurement; isolated times are in another order than those in training."""
    return dataclasses.replace(
        row,
        measured="isolated",
        isolated_train_time_s=1000.0 - row.train_time_s,
        step_time_ms=5.0,
        throughput_img_per_s=200.0,
    )


def test_times_are_isolated_if_every_trial_was_measured_alone(tmp_path):
    plan = table_plan(2)
    rows = results(plan)
    table = build_table(data_of(plan, frame(tmp_path, map(isolated, rows))))
    by_trial = {row.trial_id: row for row in rows}
    assert set(table["train_time_source"]) == {"isolated"}
    unfused = 1000.0 - by_trial[table.loc[0, "trial_ids"]].train_time_s
    for line in table.to_dict("records"):
        time = 1000.0 - by_trial[line["trial_ids"]].train_time_s
        assert (line["train_time_s"], line["train_time_ratio"]) == pytest.approx((time, time / unfused))
    assert "the time of one step, measured with nothing else on the device, times" in table_caption(
        data_of(plan, frame(tmp_path, [])), table
    )


def test_one_row_without_an_isolated_time_makes_all_times_in_training(tmp_path):
    plan = table_plan(2)
    rows = results(plan)
    mixed = frame(tmp_path / "mixed", [*map(isolated, rows[1:]), rows[0]])
    old = frame(tmp_path / "old", rows)
    table = build_table(data_of(plan, mixed))
    assert set(table["train_time_source"]) == {"in_training"}
    times = ["train_time_s", "train_time_ratio"]
    pd.testing.assert_frame_equal(table[times], build_table(data_of(plan, old))[times])
    assert "Training time was measured during training" in table_caption(data_of(plan, mixed), table)


def test_columns_measured_once_for_all_seeds_have_no_standard_deviation(tmp_path):
    plan = table_plan(1, seeds=(0, 1))
    in_training = build_table(data_of(plan, frame(tmp_path / "old", results(plan))))
    table = build_table(data_of(plan, frame(tmp_path / "new", map(isolated, results(plan)))))
    for name in ("train_time_s", "peak_memory_mib", "step_time_ms", "throughput_img_per_s"):
        assert table[name].notna().all()
        assert table[f"{name}_std"].isna().all()
    assert in_training[["train_time_s_std", "peak_memory_mib_std"]].notna().all(axis=None)
    assert table["top1_pct_std"].notna().all()
