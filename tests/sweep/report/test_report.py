"""The report of whole, partial, failed, damaged and empty studies: its files, and a page that needs no other file."""

import base64
import dataclasses
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import pandas as pd
import pytest
from synthetic_study import curve, result, results, save, table_plan

from sweep.errors import UserError
from sweep.grid.search import Search
from sweep.plan.plan_file import save_plan
from sweep.report.write import write_report
from sweep.store import study as store


def study(folder, plan, rows):
    save(folder, rows)
    save_plan(folder, plan)
    return folder


class Page(HTMLParser):
    """A parsed page: its text, pictures and links. Fails on a tag that is not closed in its place."""

    def __init__(self, path):
        super().__init__()
        self.open, self.pictures, self.links, self.text = [], [], [], ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "img":
            self.pictures.append(attributes)
        self.links += [attributes[name] for name in ("href", "src") if name in attributes]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += " ".join(data.split()) + " "


def names(paths):
    return {path.name for path in paths.files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the report on Table 2 with every row measured."""
    plan = table_plan(2)
    return write_report(study(tmp_path_factory.mktemp("whole"), plan, results(plan)))


def test_a_starting_layer_study_has_these_report_files(whole):
    assert names(whole) == {
        "index.html",
        "table2.md",
        "table2.tex",
        "table2.csv",
        "frontier.csv",
        "frontier.svg",
        "frontier.png",
        "learning_curves.svg",
        "learning_curves.png",
        "starting_layer.svg",
        "starting_layer.png",
    }
    assert {path.name for path in whole.index.parent.iterdir()} == names(whole)
    assert all(path.stat().st_size for path in whole.files)
    assert whole.table.read_text().startswith("| ")


def test_a_study_of_r_has_an_r_curve(tmp_path):
    plan = table_plan(3)
    paths = write_report(study(tmp_path, plan, results(plan)))
    assert {"table3.md", "r_curve.svg", "r_curve.png"} <= names(paths)
    assert "starting_layer.svg" not in names(paths)


def test_the_page_needs_no_other_file_and_describes_its_pictures(whole):
    page = Page(whole.index)
    assert len(page.pictures) == 3
    for picture in page.pictures:
        kind, data = picture["src"].split(",")
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")
        assert len(picture["alt"]) > 40
    assert all(link.startswith("data:") for link in page.links)
    assert "15 of 15 completed, 0 failed" in page.text
    assert "damaged" not in page.text
    assert "Imaginary CPU" in page.text
    assert "2.13.0" in page.text


def test_the_frontier_is_listed_in_csv_and_on_the_page(whole):
    listed = pd.read_csv(whole.index.with_name("frontier.csv"))
    flags = [name for name in listed if name.startswith("non_dominated")]
    assert flags == [
        "non_dominated_top1_best_pct_train_time_s",
        "non_dominated_top1_best_pct_peak_memory_mib",
        "non_dominated",
    ]
    assert listed[flags].any(axis=1).all()
    rows = results(table_plan(2))
    best = max(rows, key=lambda row: row.top1_best_pct)
    assert listed.iloc[0][["start_layer", "r"]].tolist() == [best.start_layer, best.r]
    fastest = min(rows, key=lambda row: row.train_time_s)
    line = listed[(listed["start_layer"] == fastest.start_layer) & (listed["r"] == fastest.r)].iloc[0]
    assert line[flags[0]]
    text = Page(whole.index).text
    assert all(configuration in text for configuration in listed["configuration"])


def test_the_page_of_an_empty_study_says_so(tmp_path):
    plan = table_plan(2)
    paths = write_report(study(tmp_path, plan, []))
    assert names(paths) == {"index.html", "table2.md", "table2.tex", "table2.csv", "frontier.csv"}
    text = Page(paths.index).text
    assert "No trial has completed yet" in text
    assert "0 of 15 completed" in text
    assert "0 of 15 rows measured" in paths.table.read_text()


def test_a_study_of_one_row(tmp_path):
    plan = table_plan(2)
    paths = write_report(study(tmp_path, plan, results(plan)[:1]))
    assert "1 of 15 completed" in Page(paths.index).text
    assert "frontier.svg" in names(paths)


def test_a_study_that_failed_shows_the_errors_as_text(tmp_path):
    plan = table_plan(2)
    folder = study(
        tmp_path, plan, [result(trial, status="failed", error="loss <b>nan</b> & more") for trial in plan.trials]
    )
    paths = write_report(folder)
    text = Page(paths.index).text
    assert "0 of 15 completed, 15 failed" in text
    assert text.count("loss <b>nan</b> & more") == 15


def test_a_trial_that_completed_on_retry_is_not_counted_as_failed(tmp_path):
    plan = table_plan(2)
    again = dataclasses.replace(results(plan)[0], attempt=2)
    folder = study(tmp_path, plan, [result(plan.trials[0], status="failed", error="once"), again])
    text = Page(write_report(folder).index).text
    assert "1 of 15 completed, 0 failed" in text
    assert "once" not in text.split("Learning curves")[1]


def test_trials_outside_the_plan_change_one_sentence_of_the_report(tmp_path):
    grid = table_plan(2)
    kept = dataclasses.replace(grid, trials=grid.trials[:6], cases=grid.cases[:6])
    rows, dropped = results(kept), grid.trials[6:]
    older = [
        result(
            dropped[0], top1_pct=1.0, measured="in_training", peak_memory_source="cuda_allocator", source="other/x.1"
        ),
        result(dropped[1], status="failed", error="x"),
        result(dropped[2], status="pruned", top1_pct=1.0),
    ]
    older = [dataclasses.replace(r, device_name="Other", torch_version="1.0", git_commit="0ld") for r in older]
    rows = [dataclasses.replace(r, measured="isolated", isolated_train_time_s=r.train_time_s) for r in rows]
    for plan in (kept, dataclasses.replace(kept, search=Search())):
        name = "search" if plan.search else "grid"
        edited = write_report(study(tmp_path / name / "edited", plan, rows + older))
        plain = write_report(study(tmp_path / name / "plain", plan, rows))
        said = b"Left out: 3 stored trials of earlier plans. "
        texts = [path.read_bytes() for path in edited.files]
        assert [text.replace(said, b"") for text in texts] == [path.read_bytes() for path in plain.files]
        assert said in edited.table.read_bytes()


def test_a_trial_whose_last_attempt_was_stopped_early_is_not_counted_as_failed(tmp_path):
    plan = table_plan(2)
    attempts = [
        result(plan.trials[1], status="failed", error="once"),
        result(plan.trials[1], attempt=2, status="pruned"),
    ]
    paths = write_report(study(tmp_path, plan, attempts))
    assert "0 failed, 1 stopped early" in Page(paths.index).text
    assert "failed" not in paths.table.read_text()


def test_damaged_parts_are_counted_and_left_out(tmp_path):
    plan = table_plan(2)
    folder = study(tmp_path, plan, results(plan))
    (folder / "trials" / f"{plan.trials[2].trial_id}.1.parquet").write_bytes(b"torn")
    (folder / "epochs" / f"{plan.trials[3].trial_id}.1.parquet").write_bytes(b"torn")
    text = Page(write_report(folder).index).text
    assert "14 of 15 completed, 0 failed, 2 damaged files" in text
    missing = "These files could not be read; what only they held is not in the report"
    assert f"{missing}: trials/{plan.trials[2].trial_id}.1.parquet, epochs/" in text
    (folder / "epochs" / f"{plan.trials[3].trial_id}.1.parquet").unlink()
    text = Page(write_report(folder).index).text
    assert "14 of 15 completed, 0 failed, 1 damaged file " in text
    assert "This file could not be read; what only it held is not in the report: trials/" in text


def test_a_second_report_replaces_the_first_and_is_the_same(whole):
    first = {path.name: path.read_bytes() for path in whole.files}
    second = {path.name: path.read_bytes() for path in write_report(whole.index.parent.parent).files}
    assert first == second


def test_a_grid_without_a_published_table_has_its_own_objectives(tmp_path):
    plan = dataclasses.replace(table_plan(2), paper_table=None, objectives={"top1_pct": "max", "step_time_ms": "min"})
    rows = [dataclasses.replace(row, step_time_ms=10.0 + i) for i, row in enumerate(results(plan))]
    paths = write_report(study(tmp_path, plan, rows))
    assert {"table.md", "table.tex", "table.csv", "frontier.png"} <= names(paths)
    assert "Step time (ms)" in Page(paths.index).text
    assert "(%) paper" not in paths.table.read_text().splitlines()[0]


def test_a_cost_that_is_0_without_fusion_has_no_hypervolume_and_the_page_says_so(tmp_path):
    objectives = {"top1_best_pct": "max", "reduced_tokens": "min", "train_time_s": "min"}
    plan = dataclasses.replace(table_plan(2), objectives=objectives)
    paths = write_report(study(tmp_path, plan, results(plan)))
    text = Page(paths.index).text
    assert "against Tokens removed has no hypervolume: without fusion that cost is 0." in text
    assert text.count("has no hypervolume") == 1
    assert "frontier.svg" in names(paths)


def test_a_single_objective_has_a_best_row_and_no_trade_off_figure(tmp_path):
    plan = dataclasses.replace(table_plan(2), objectives={"top1_best_pct": "max"})
    paths = write_report(study(tmp_path, plan, results(plan)))
    assert "frontier.svg" not in names(paths)
    assert len(pd.read_csv(paths.index.with_name("frontier.csv"))) == 1
    Page(paths.index)


def test_the_page_formats_numbers_by_their_magnitude(tmp_path):
    objectives = {"top1_best_pct": "max", "flops_per_image": "min", "final_loss": "min", "throughput_img_per_s": "max"}
    plan = dataclasses.replace(table_plan(2), paper_table=None, objectives=objectives)
    small = dataclasses.replace(
        results(plan)[1], top1_best_pct=90.04, flops_per_image=1.2592e9, final_loss=0.97316, throughput_img_per_s=1234.5
    )
    text = Page(write_report(study(tmp_path, plan, [small])).index).text
    assert "start 15, r 15  90.0 1,259,200,000 0.973 1,234 yes yes yes" in text
    assert "reference cost 1,385,120,000" in text


def test_many_curves_and_labels_are_thinned_and_the_page_says_so(tmp_path, monkeypatch):
    plan = table_plan(2)
    folder = study(tmp_path, plan, results(plan))
    assert "figcaption>" not in write_report(folder).index.read_text()
    monkeypatch.setattr("sweep.report.figures.curves.MOST_CURVES", 4)
    monkeypatch.setattr("sweep.report.pictures.MOST_LABELS", 14)
    paths = write_report(folder)
    text = Page(paths.index).text
    assert "Drawn are 4 of 15 completed trials, spread evenly over the table." in text
    assert "Each panel labels at most 14 of its 15 points, those on the frontier first." in text
    svg = paths.index.with_name("learning_curves.svg").read_text()
    drawn = re.findall(r"<!-- (start .*|no fusion) -->", svg)
    assert drawn == ["no fusion", "start 11, r 12", "start 7, r 9", "start 2, r 7"]


def test_only_completed_attempts_have_learning_curves(tmp_path):
    plan = table_plan(2)
    pruned = result(plan.trials[1], status="pruned", top1_pct=1.0)
    folder = study(tmp_path, plan, [results(plan)[0], pruned])
    assert len(curve(pruned)) == 20
    svg = (write_report(folder).index.with_name("learning_curves.svg")).read_text()
    assert re.findall(r"<!-- (start .*|no fusion) -->", svg) == ["no fusion"]


def test_a_folder_without_a_plan_raises_user_error(tmp_path):
    with pytest.raises(UserError, match=r"plan\.json: cannot be read"):
        write_report(tmp_path)


def test_an_incomplete_plan_raises_user_error(tmp_path):
    store.create_study(tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps({"study": "x"}))
    with pytest.raises(UserError):
        write_report(tmp_path)


def test_a_report_folder_that_cannot_be_created_raises_user_error(tmp_path):
    plan = table_plan(2)
    study(tmp_path, plan, results(plan)[:2])
    (tmp_path / "report").write_text("")
    with pytest.raises(UserError, match=r"report: cannot be written: .*report is not a folder; move it away"):
        write_report(tmp_path)


def test_the_users_figure_settings_change_nothing(whole, tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 30\naxes.grid: True\nlegend.fontsize: 3\n")
    environment = os.environ | {"MPLBACKEND": "module://not_installed.backend_inline"}  # as a notebook's shell sets it
    before = {path.name: path.read_bytes() for path in whole.files}
    command = [sys.executable, "-m", "sweep.cli", "report", str(whole.index.parents[1])]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in whole.files} == before


def test_the_page_fits_a_phone(whole):
    """Long words wrap, wide figures and tables scroll in their own box, and captions stay as wide as the screen."""
    style = re.search(r"<style>(.*?)</style>", whole.index.read_text(), flags=re.DOTALL)[1]
    wide, phone = style.split("@media (max-width: 40rem)")
    assert "h1, dd, p, li { overflow-wrap: anywhere; }" in wide
    assert "minmax(0, 1fr)" in wide  # a commit's column may become narrower than the commit
    assert re.search(r"figure \{ overflow-x: auto; \}", wide)
    assert re.search(r"caption, figcaption \{ position: sticky; left: 0; max-width: calc\(100vw", phone)
    assert re.search(r"img \{ max-width: none; width: \d+rem; \}", phone)
