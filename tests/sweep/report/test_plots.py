"""Figures show the numbers of the table, their labels do not overlap, and equal data gives equal files."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.text import Annotation, Text
from synthetic_study import OBJECTIVES, data_of, results, save, table_plan

from famba_core.figures import render
from famba_core.palette import PALETTE
from sweep.report.figures import curves, frontier, point_labels
from sweep.report.figures.style import in_readable_unit
from sweep.report.pareto import frontiers
from sweep.report.tables import build_table
from sweep.store import study as store

WHITE = (1.0, 1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    def build(number, seeds=(0,)):
        plan = table_plan(number, seeds)
        rows, _ = store.read_rows(save(tmp_path_factory.mktemp("study"), results(plan)))
        return build_table(data_of(plan, rows))

    return build


def points(ax):
    """Return (x, y, filled) of every marker that stands for a configuration, sorted."""
    return sorted(
        (x, y, to_rgba(container.lines[0].get_markerfacecolor()) != WHITE)
        for container in ax.containers
        for x, y in zip(container.lines[0].get_xdata(), container.lines[0].get_ydata(), strict=True)
    )


def labels(ax):
    return [text for text in ax.texts if isinstance(text, Annotation)]


def test_every_configuration_is_a_point_and_the_filled_ones_are_the_frontier(study):
    table = study(2)
    panels = frontiers(table, OBJECTIVES)
    figure = frontier.frontier_figure(table, panels, "a title")
    for ax, panel in zip(figure.axes, panels, strict=True):
        assert points(ax) == sorted(zip(table[panel.cost], table["top1_best_pct"], panel.mask.tolist(), strict=True))
        assert 0 < panel.mask.sum() < len(table), "the panel shows both kinds"
    assert figure.get_suptitle() == "a title"


def test_the_frontier_line_is_a_staircase(study):
    table = study(2)
    (panel, *_) = panels = frontiers(table, OBJECTIVES)
    stairs = frontier.frontier_figure(table, panels, "").axes[0].lines[0]
    x, y = stairs.get_xdata(), stairs.get_ydata()
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= 0).all()
    assert ((np.diff(x) == 0) | (np.diff(y) == 0)).all(), "level or upright, never slanted"
    assert set(zip(x[::2], y[::2], strict=True)) == set(
        zip(table["train_time_s"][panel.mask], table["top1_best_pct"][panel.mask], strict=True)
    )


@pytest.mark.parametrize(("number", "seeds"), [(1, (0, 1)), (2, (0,)), (2, (0, 1, 2)), (3, (0,))])
def test_labels_do_not_overlap_and_all_fit(study, number, seeds):
    table = study(number, seeds)
    figure = frontier.frontier_figure(table, frontiers(table, OBJECTIVES), "title")
    figure.draw_without_rendering()
    for ax in figure.axes:
        boxes = [Text.get_window_extent(label) for label in labels(ax)]
        assert sorted(label.get_text() for label in labels(ax)) == sorted(table["configuration"])
        for i, box in enumerate(boxes):
            assert ax.bbox.x0 <= box.x0
            assert box.x1 <= ax.bbox.x1
            assert not any(box.overlaps(other) for other in boxes[:i])


def test_frontier_points_keep_their_labels_in_a_crowd(study):
    table = study(2).iloc[[0] + [1] * 200].reset_index(drop=True)
    rng = np.random.default_rng(0)
    table.loc[1:, "top1_best_pct"] = rng.uniform(60, 80, 200)
    table.loc[1:, "train_time_s"] = rng.uniform(30, 40, 200)
    table["configuration"] = [f"number {i}" for i in range(len(table))]
    (panel, *_) = panels = frontiers(table, {"top1_best_pct": "max", "train_time_s": "min"})
    shown = {label.get_text() for label in labels(frontier.frontier_figure(table, panels, "").axes[0])}
    assert set(table["configuration"][panel.mask]) <= shown
    assert len(shown) < len(table)


def test_seeds_have_error_bars_and_one_seed_has_none(study):
    for seeds, bars in (((0,), 0), ((0, 1), 2)):
        table = study(2, seeds)
        figure = frontier.frontier_figure(table, frontiers(table, OBJECTIVES), "")
        assert {len(container.lines[2]) for container in figure.axes[0].containers} == {bars}


def test_a_configuration_with_one_measured_seed_is_labelled_among_others_with_error_bars(study):
    table = study(2, (0, 1))
    table.loc[3, [name for name in table if name.endswith("_std")]] = np.nan
    figure = frontier.frontier_figure(table, frontiers(table, OBJECTIVES), "")
    assert sorted(label.get_text() for label in labels(figure.axes[0])) == sorted(table["configuration"])


def test_reduced_tokens_as_an_objective_has_no_error_bars_and_no_hypervolume(study):
    table = study(2)
    panels = frontiers(table, {"top1_best_pct": "max", "reduced_tokens": "min"})
    figure = frontier.frontier_figure(table, panels, "")
    assert len(points(figure.axes[0])) == len(table)
    assert panels[0].hypervolume is None, "a reference cost of 0 spans no box"


def test_unmeasured_configurations_are_not_drawn(study):
    table = study(2)
    table.loc[3:, "train_time_s"] = np.nan
    figure = frontier.frontier_figure(table, frontiers(table, OBJECTIVES), "")
    assert [len(points(ax)) for ax in figure.axes] == [3, 15]


def test_each_backbone_has_its_own_colour(study):
    table = study(1)
    figure = frontier.frontier_figure(table, frontiers(table, OBJECTIVES), "")
    kinds = {(line.get_color(), line.get_marker()) for line, *_ in figure.axes[0].containers}
    assert {colour for colour, _ in kinds} == set(PALETTE[:2])
    assert len(kinds) == 2 * 5, "in grey print the strategies differ by their marker"


@pytest.mark.parametrize(
    ("seconds", "divisor", "unit"), [(45, 1, "s"), (299, 1, "s"), (300, 60, "min"), (18000, 3600, "h")]
)
def test_training_time_has_a_readable_unit(study, seconds, divisor, unit):
    column = study(2)["train_time_s"].clip(upper=0) + seconds
    assert in_readable_unit("train_time_s", column) == (divisor, f"Training time ({unit})")


def series(ax, start):
    return {
        container.get_label(): (container.lines[0].get_xdata().tolist(), container.lines[0].get_ydata().tolist())
        for container in ax.containers
        if container.get_label().startswith(start)
    }


def test_the_starting_layer_curve_holds_the_tables_numbers(study):
    table = study(2)
    upper = table[table["strategy"] == "upper"].sort_values("start_layer")
    top1, time, memory, paper = curves.knob_figure(table, curves.STARTING_LAYER, "").axes
    assert series(top1, "measured") == {"measured": (list(range(2, 16)), upper["top1_best_pct"].tolist())}
    assert series(paper, "published") == {"published": (list(range(2, 16)), upper["published_top1_pct"].tolist())}
    for ax, name in ((time, "train_time_ratio"), (memory, "peak_memory_ratio")):
        assert series(ax, "measured")["measured"][1] == upper[name].tolist()
        assert series(ax, "published")["published"][1] == upper[f"published_{name}"].tolist()


def test_the_r_curve_holds_the_tables_numbers(study):
    table = study(3)
    time = curves.knob_figure(table, curves.R, "").axes[1]
    assert series(time, "measured")["measured"] == (
        list(range(1, 10)),
        table[table["strategy"] == "upper"].sort_values("r")["train_time_ratio"].tolist(),
    )


def test_the_axis_of_the_papers_r_says_what_goes_in_each_layer_of_smaller_images(study):
    axis = curves.knob_figure(study(3), curves.R, "").axes[1].xaxis
    # 64 of the paper's 196 patches: r 9 in 19 layers is round(9 * 19 * 64 / 196) = 56, 2 or 3 in each
    assert [label.get_text() for label in axis.get_ticklabels()][::4] == ["1\n0–1", "5\n1–2", "9\n2–3"]
    assert axis.get_label_text() == "r (paper); below it, tokens removed in each fusing layer"


def test_an_axis_of_r_that_is_r_says_so(study):
    table = study(3).assign(removed_per_layer=lambda table: table["r"].astype(str))
    axis = curves.knob_figure(table, curves.R, "").axes[1].xaxis
    assert axis.get_label_text() == "r, tokens removed in each fusing layer"


def test_curves_are_drawn_only_where_one_knob_moves(study):
    assert curves.knob_figure(study(2), curves.R, "") is None, "each starting layer has one r"
    assert curves.knob_figure(study(3), curves.STARTING_LAYER, "") is None, "one starting layer"
    assert curves.knob_figure(study(1), curves.STARTING_LAYER, "") is None
    assert curves.knob_figure(study(1), curves.R, "") is None


def test_a_starting_layer_crossed_with_r_has_a_curve_for_each(study):
    plan = table_plan(2)
    cases = [dataclasses.replace(case, r=r) for case in plan.cases[1:4] for r in (2, 4)]
    table = study(2)
    crossed = (
        table.iloc[[1, 1, 2, 2, 3, 3]]
        .assign(r=[case.r for case in cases], start_layer=[case.start_layer for case in cases])
        .reset_index(drop=True)
    )
    crossed = crossed.astype({"r": "Int64", "start_layer": "Int64"})
    names = list(series(curves.knob_figure(crossed, curves.STARTING_LAYER, "").axes[0], "measured"))
    assert names == ["measured, r 2", "measured, r 4"]


def test_curves_are_thinned_to_fit_the_legend_and_the_title_says_so(study, monkeypatch):
    rs, one = (1, 2, 4, 6, 9), study(2).iloc[[1, 2, 3]]
    crossed = pd.concat([one.assign(r=r) for r in rs], ignore_index=True).astype({"r": "Int64"})
    assert curves.knob_figure(crossed, curves.STARTING_LAYER, "a title").get_suptitle() == "a title"
    monkeypatch.setattr(curves, "MOST_KNOB_CURVES", 3)
    figure = curves.knob_figure(crossed, curves.STARTING_LAYER, "a title")
    assert figure.get_suptitle() == "a title: 3 of 5 curves, evenly over the table"
    assert list(series(figure.axes[0], "measured")) == ["measured, r 1", "measured, r 4", "measured, r 9"]


def test_a_curve_name_leaves_out_missing_labels(study):
    upper = pd.concat([study(2).iloc[[1]].assign(r=r) for r in (1, 2, 3)], ignore_index=True).astype({"r": "Int64"})
    lower = upper.assign(strategy="lower", start_layer=pd.NA, stop_layer=5)
    table = pd.concat([upper, lower], ignore_index=True).astype({"start_layer": "Int64"})
    figure = curves.knob_figure(table, curves.R, "")
    names = ["measured, strategy upper, start layer 15", "measured, strategy lower, stop layer 5"]
    assert list(series(figure.axes[0], "measured")) == names


def test_a_legend_of_long_names_fits_the_figure(study):
    one = study(2).iloc[[1, 2, 3]]
    crossed = [
        one.assign(r=r, order=order, weighting=weighting, backbone=backbone)
        for r in (1, 2, 3)
        for order in ("concat", "raster")
        for weighting in ("mean", "size")
        for backbone in ("vim_nano", "vim_nano_small")
    ]
    table = pd.concat(crossed, ignore_index=True).astype({"r": "Int64"})
    figure = curves.knob_figure(table, curves.STARTING_LAYER, "")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.get_texts()) > 24
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1
    assert min(ax.bbox.height for ax in figure.axes) > 200


def test_points_in_one_place_are_counted_as_by_a_naive_search():
    places = np.random.default_rng(0).uniform(0, 12, (200, 2))
    naive = {}
    for i, place in enumerate(places):
        near = next((j for j in naive if np.abs(places[j] - place).max() < point_labels.SAME_PLACE), i)
        naive[near] = naive.get(near, -1) + 1
    assert point_labels._by_place(places) == naive


def test_learning_curves_have_a_line_for_each_trial_and_a_name_for_each_configuration(tmp_path):
    epochs, _ = store.read_epochs(save(tmp_path, results(table_plan(2, (0, 1)))[:20]))
    epochs["configuration"] = epochs["trial_id"].str.replace(r"-\d$", "", regex=True)
    epochs["strategy"] = epochs["configuration"].str.split("-").str[0]
    figure = curves.learning_curves_figure(epochs, "")
    assert [len(ax.lines) for ax in figure.axes] == [20, 20]
    assert len(figure.legends[0].get_texts()) == epochs["configuration"].nunique() == 15
    assert figure.axes[1].lines[0].get_ydata().tolist() == epochs["top1_pct"].iloc[:20].tolist()


def test_many_learning_curves_are_named_by_strategy(tmp_path):
    epochs, _ = store.read_epochs(save(tmp_path, results(table_plan(2, tuple(range(3))))))
    epochs["configuration"] = epochs["trial_id"]
    epochs["strategy"] = ["none" if name == epochs["trial_id"].iloc[0] else "upper" for name in epochs["trial_id"]]
    figure = curves.learning_curves_figure(epochs, "")
    assert epochs["configuration"].nunique() > curves.MOST_LEGEND_LINES
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["no fusion", "upper"]
    assert len({line.get_color() for line in figure.axes[0].lines}) == 2


def test_points_in_one_place_share_a_label(study):
    table = study(2).iloc[:4].reset_index(drop=True)
    objectives = ["top1_best_pct", "train_time_s"]
    table.loc[[1, 2], objectives] = table.loc[3, objectives].to_numpy()
    table["configuration"] = ["none", "b", "c", "d"]
    panels = frontiers(table, {"top1_best_pct": "max", "train_time_s": "min"})
    figure = frontier.frontier_figure(table, panels, "")
    assert [label.get_text() for label in labels(figure.axes[0])] == ["none", "b and 2 more"]


def test_equal_data_gives_equal_files(study):
    def draw(kind):
        table = study(2)
        return render(frontier.frontier_figure(table, frontiers(table, OBJECTIVES), "title"), kind)

    first = draw("svg")
    assert first.startswith(b"<?xml")
    assert first == draw("svg")
    assert draw("png").startswith(b"\x89PNG")
