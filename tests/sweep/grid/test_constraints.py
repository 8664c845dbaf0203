"""Constraints of a search in the report: caption, table, frontier, figure and page."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from synthetic_study import OBJECTIVES, data_of, result, results, save, table_plan

from famba_core.palette import GREY
from sweep.grid.objectives import Constraint
from sweep.grid.search import Search
from sweep.plan.plan_file import save_plan
from sweep.report import table_text
from sweep.report.figures import frontier
from sweep.report.pareto import dominated_share, frontier_rows, frontiers
from sweep.report.tables import build_table, table_caption
from sweep.report.write import write_report
from sweep.store import study as store

MEMORY = Constraint(column="peak_memory_mib", relation="<=", bound=165.0)
ACCURACY = Constraint(column="top1_best_pct", relation=">=", bound=86.0)
FREE = replace(table_plan(2), paper_table=None, search=Search())
PLAN = replace(FREE, constraints=(MEMORY, ACCURACY))
ROWS = results(PLAN)


def table_of(folder, plan=PLAN, rows=ROWS):
    return build_table(data_of(plan, store.read_rows(save(folder, rows))[0]))


def caption_of(plan, rows):
    data = data_of(plan, rows)
    return table_caption(data, build_table(data))


@pytest.mark.parametrize(
    ("constraint", "value", "violation"), [(MEMORY, 170.0, 5.0), (MEMORY, 165.0, 0.0), (ACCURACY, 85.0, 1.0)]
)
def test_violation_is_the_distance_beyond_the_bound(constraint, value, violation):
    assert constraint.violation(value) == violation


def test_a_line_names_the_constraints_that_it_breaks(tmp_path):
    table = table_of(tmp_path)
    memory, accuracy = table["peak_memory_mib"] > 165, table["top1_best_pct"] < 86
    assert (memory.sum(), accuracy.sum()) == (6, 1)
    assert table["feasible"].tolist() == (~(memory | accuracy)).tolist()
    words = {(True, False): "peak_memory_mib <= 165", (False, True): "top1_best_pct >= 86", (False, False): ""}
    assert table["breaks"].tolist() == [words[line] for line in zip(memory, accuracy, strict=True)]
    both = replace(PLAN, constraints=(MEMORY, replace(ACCURACY, bound=99.0)))
    assert table_of(tmp_path / "both", both)["breaks"][0] == "peak_memory_mib <= 165 and top1_best_pct >= 99"


def test_a_plan_without_constraints_adds_no_columns(tmp_path):
    assert not {"feasible", "breaks"} & set(table_of(tmp_path, FREE))


def test_a_line_without_the_number_is_not_known_to_meet_a_constraint(tmp_path):
    table = table_of(tmp_path, rows=[replace(ROWS[0], peak_memory_mib=None), *ROWS[1:3]])
    assert table["feasible"].isna().tolist() == [True, False, False]
    notes = table_text.printed_columns(table)[-1].cells
    assert notes[:2] == ("constraints not known to be met", "breaks peak_memory_mib")
    assert not any(frontier.mask[0] for frontier in frontiers(table, OBJECTIVES))


def test_constraints_compare_the_mean_over_seeds(tmp_path):
    grid = table_plan(2, (0, 1))
    plan = replace(grid, paper_table=None, search=Search(), constraints=(MEMORY,))
    same = [trial for trial in plan.trials if trial.fusion == plan.trials[1].fusion]
    rows = [result(trial, peak_memory_mib=size) for trial, size in zip(same, (160.0, 169.0), strict=True)]
    table = table_of(tmp_path, plan, rows).query("seeds_measured > 0")
    assert table[["feasible", "breaks"]].values.tolist() == [[True, ""]]


def test_a_constraint_on_time_uses_isolated_times_as_the_search_does(tmp_path):
    """This holds even if the table shows times in training because one row has no isolated time."""
    plan = replace(FREE, constraints=(Constraint(column="train_time_s", relation="<=", bound=50.0),))
    slow_alone = replace(ROWS[0], measured="isolated", train_time_s=10.0, isolated_train_time_s=60.0)
    fast_alone = replace(ROWS[1], measured="isolated", train_time_s=60.0, isolated_train_time_s=10.0)
    in_training = replace(ROWS[2], measured="in_training", train_time_s=60.0, isolated_train_time_s=None)
    for rows in ([slow_alone, fast_alone], [slow_alone, fast_alone, in_training]):
        table = table_of(tmp_path / str(len(rows)), plan, rows)
        assert table["feasible"].tolist() == [False, True, False][: len(rows)]
    assert set(table["train_time_source"]) == {"in_training"}


@pytest.mark.parametrize("column", ["final_loss", "parameters", "start_layer", "reduced_tokens"])
def test_any_column_can_be_bounded(tmp_path, column):
    plan = replace(FREE, constraints=(Constraint(column=column, relation=">=", bound=0.0),))
    table = table_of(tmp_path, plan, [replace(row, final_loss=0.5) for row in ROWS])
    assert table["feasible"][1:].all()
    assert column in table


def test_captions_say_how_many_rows_meet_the_constraints(tmp_path):
    rows = store.read_rows(save(tmp_path, ROWS))[0]
    meet = "meet peak_memory_mib <= 165 and top1_best_pct >= 86."
    assert f"8 of 15 measured rows {meet}" in caption_of(PLAN, rows)
    few = rows[rows["trial_id"] == PLAN.trials[1].trial_id]
    meets = meet.replace("meet", "meets")
    assert f"0 of 1 measured row {meets}" in caption_of(PLAN, few)
    assert "meet" not in caption_of(PLAN, rows[:0])
    assert "meet" not in caption_of(FREE, rows)


def test_every_format_marks_broken_constraints(tmp_path):
    table = table_of(tmp_path)
    columns = table_text.printed_columns(table)
    assert table_text.to_markdown(columns, "").count("| breaks peak_memory_mib |") == 6
    assert table_text.to_latex(columns, "", "tab:x").count(r"breaks peak\_memory\_mib \\") == 6
    (tmp_path / "t.csv").write_text(table.to_csv(index=False))
    back = pd.read_csv(tmp_path / "t.csv", keep_default_na=False)
    assert back[["feasible", "breaks"]].values.tolist() == table[["feasible", "breaks"]].values.tolist()


def test_infeasible_configurations_are_neither_on_the_frontier_nor_in_the_hypervolume(tmp_path):
    table = table_of(tmp_path)
    meets = table["feasible"].to_numpy(bool)
    free, bound = frontiers(table_of(tmp_path / "free", FREE), OBJECTIVES), frontiers(table, OBJECTIVES)
    for before, after, alone in zip(free, bound, frontiers(table[meets], OBJECTIVES), strict=True):
        assert before.mask[~meets].any(), "some of them would be on the frontier"
        assert not after.mask[~meets].any()
        assert after.mask[meets].tolist() == alone.mask.tolist()
        assert after.reference_cost == before.reference_cost, "that of the unfused row, which breaks a constraint"
        values = table.loc[meets, [after.gain, after.cost]].to_numpy()
        expected = dominated_share(*values.T, ideal_gain=100, reference_cost=after.reference_cost)
        assert after.hypervolume == expected < before.hypervolume
    assert set(frontier_rows(table, OBJECTIVES, bound)["configuration"]) <= set(table["configuration"][meets])


def crosses(ax):
    return [tuple(point) for line in ax.lines if line.get_marker() == "x" for point in np.column_stack(line.get_data())]


def test_the_figure_crosses_out_infeasible_configurations(tmp_path):
    table = table_of(tmp_path)
    figure = frontier.frontier_figure(table, panels := frontiers(table, OBJECTIVES), "")
    outside = table[~table["feasible"].astype(bool)]
    for ax, panel in zip(figure.axes, panels, strict=True):
        assert sorted(crosses(ax)) == sorted(zip(outside[panel.cost], outside[panel.gain], strict=True))
        (above,) = [line.get_zorder() for line in ax.lines if line.get_marker() == "x"]
        assert above > max(container.lines[0].get_zorder() for container in ax.containers)
        grey = [
            container.lines[0]
            for container in ax.containers
            if to_rgba(container.lines[0].get_color()) == to_rgba(GREY)
        ]
        assert sum(len(line.get_xdata()) for line in grey) == len(outside)
    (legend,) = figure.legends
    assert legend.get_texts()[-1].get_text() == "crossed out: constraints not met"


def test_the_legend_mentions_crosses_only_if_there_are_any(tmp_path):
    wide = replace(PLAN, constraints=(replace(MEMORY, bound=1e6),))
    for name, plan in (("free", FREE), ("wide", wide)):
        table = table_of(tmp_path / name, plan)
        figure = frontier.frontier_figure(table, frontiers(table, OBJECTIVES), "")
        assert not any(crosses(ax) for ax in figure.axes)
        assert "crossed" not in " ".join(text.get_text() for text in figure.legends[0].get_texts())


@pytest.mark.parametrize(("rows", "drawn"), [(ROWS, True), (ROWS[:1], True), ([], False)])
def test_the_page_of_a_study_where_nothing_meets_the_constraints(tmp_path, rows, drawn):
    plan = replace(FREE, constraints=(replace(MEMORY, bound=10.0),))
    save_plan(save(tmp_path, rows), plan)
    paths = write_report(tmp_path)
    page = " ".join(paths.index.read_text().split())
    assert "The search must meet peak_memory_mib &lt;= 10. A configuration does not count" in page
    assert ("Accuracy against cost" in page) == drawn
    assert ("Peak memory in training (MiB): none" in page) == drawn
    assert "Pareto frontier</h2>" not in page
