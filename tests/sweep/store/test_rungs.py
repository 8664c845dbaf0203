"""ASHA's rule at the rungs, and what is left there."""

from __future__ import annotations

import math
import multiprocessing
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.grid.search import EarlyStop
from sweep.store.layout import StudyPaths
from sweep.store.rungs import continues, fold_rungs, is_rung, read_rung

EVERY_THIRD = EarlyStop(min_epochs=1, reduction_factor=3)


def arrive(folder: Path, trial_id: str, value: float, *, epoch: int = 1, group: str = "vim_tiny") -> bool:
    return continues(folder, group, trial_id, epoch, value, EVERY_THIRD)


@pytest.mark.parametrize(
    ("stop", "rungs"),
    [
        (EarlyStop(min_epochs=1, reduction_factor=3), {1, 3, 9, 27}),
        (EarlyStop(min_epochs=2, reduction_factor=4), {2, 8, 32}),
        (EarlyStop(min_epochs=5, reduction_factor=2), {5, 10, 20, 40}),
    ],
)
def test_rungs_are_the_first_one_times_powers_of_the_factor(stop, rungs):
    assert {epoch for epoch in range(1, 41) if is_rung(epoch, stop)} == rungs


def rung_of(folder: Path) -> Path:
    return StudyPaths(folder).rung("vim_tiny", 1)


def test_nothing_is_decided_or_left_between_rungs(tmp_path):
    assert all(arrive(tmp_path, f"trial{i}", float(i), epoch=2) for i in (5, 4, 3, 2, 1))
    assert list(tmp_path.iterdir()) == []


def test_the_best_third_so_far_continues(tmp_path):
    decided = [arrive(tmp_path, f"trial{i}", value) for i, value in enumerate((50, 40, 30, 45, 60, 55, 49))]
    #                  the first two, too few to compare; 3rd of 3; 2nd of 4; 1st of 5; 2nd of 6; 4th of 7
    assert decided == [True, True, False, True, True, True, False]
    names = sorted(file.name for file in (tmp_path / "rungs/vim_tiny/1").iterdir())
    assert [name.split("=")[0] for name in names] == [f"trial{i}" for i in range(7)]
    assert names[2] == "trial2=30.0=stops"


def test_backbones_and_rungs_are_compared_apart(tmp_path):
    for i in range(5):
        arrive(tmp_path, f"good{i}", 90.0)
    assert not arrive(tmp_path, "poor", 10.0)
    assert arrive(tmp_path, "poor", 10.0, group="vim_small")
    assert arrive(tmp_path, "poor", 10.0, epoch=3)


def test_a_resumed_trial_gets_the_same_decision_and_counts_once(tmp_path):
    assert arrive(tmp_path, "first", 40.0)
    for i in range(5):
        arrive(tmp_path, f"better{i}", 50.0 + i)
    assert arrive(tmp_path, "first", 40.0), "it went on, was killed, and comes again: now it would be the last of six"
    assert len(list((tmp_path / "rungs/vim_tiny/1").iterdir())) == 6
    assert not arrive(tmp_path, "first", 39.0), "another value is another attempt"


def test_nan_stops_and_is_the_worst_of_the_others(tmp_path):
    assert not arrive(tmp_path, "nan", math.nan)
    assert arrive(tmp_path, "first", 1.0)
    assert arrive(tmp_path, "second", 2.0)
    assert not arrive(tmp_path, "nan", math.nan)


def test_files_of_others_do_not_count(tmp_path):
    rung = tmp_path / "rungs/vim_tiny/1"
    rung.mkdir(parents=True)
    for name in ("torn", "torn=9.0", "words=many=goes_on", "x=9.0=otherwise", "x=9.0=goes_on=twice", ".t.0a.tmp"):
        (rung / name).touch()
    assert [arrive(tmp_path, name, value) for name, value in (("a", 3.0), ("b", 2.0), ("c", 1.0))] == [
        True, True, False,
    ]  # fmt: skip


def test_what_is_folded_counts_as_before(tmp_path):
    """Twice, with arrivals before, between and after; and a value that is replaced wins over its line."""
    values = [50.0, 40.0, 30.0, 45.0, 60.0, 55.0, 49.0, math.nan, 58.0]
    for i, value in enumerate(values):
        plain, folded = (arrive(tmp_path / study, f"trial{i}", value) for study in ("plain", "folded"))
        assert plain == folded
        if i in (2, 3, 6):
            fold_rungs(tmp_path / "folded")
            assert [file.name for file in rung_of(tmp_path / "folded").iterdir()] == ["folded"]
    for again in (values[2], 61.0, 62.0):
        assert arrive(tmp_path / "plain", "trial2", again) == arrive(tmp_path / "folded", "trial2", again)
    assert read_rung(rung_of(tmp_path / "folded")).keys() == {f"trial{i}" for i in range(9)}
    assert read_rung(rung_of(tmp_path / "folded"))["trial2"] == ("trial2", 62.0, True)
    fold_rungs(tmp_path / "folded")
    assert read_rung(rung_of(tmp_path / "folded"))["trial2"] == ("trial2", 62.0, True)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_worker_that_is_overtaken_by_folding_sees_every_arrival_once(tmp_path, monkeypatch, moment):
    for i in range(4):
        arrive(tmp_path, f"trial{i}", float(i))
    rung, real = rung_of(tmp_path), os.listdir
    before = read_rung(rung)

    def overtaken(folder):
        names = real(folder)
        monkeypatch.setattr(os, "listdir", real)
        fold_rungs(tmp_path)
        return names if moment == "after" else real(folder)

    monkeypatch.setattr(os, "listdir", overtaken)
    assert read_rung(rung) == before
    assert real(rung) == ["folded"]
    assert read_rung(rung) == before


def test_a_rung_is_one_listing(tmp_path, monkeypatch):
    """Of thousands of trials none is opened, and nothing is left that would have to be cleared."""
    for i in range(50):
        arrive(tmp_path, f"trial{i}", float(i))
    files = list((tmp_path / "rungs/vim_tiny/1").iterdir())
    assert [file.stat().st_size for file in files] == [0] * 50
    opened = []
    monkeypatch.setattr("builtins.open", lambda *arguments, **options: opened.append(arguments))
    monkeypatch.setattr("pathlib.Path.open", lambda *arguments, **options: opened.append(arguments))
    assert arrive(tmp_path, "late", 50.0)
    assert opened == []


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 100).map(float) | st.just(math.nan), min_size=1, max_size=25),
    st.integers(2, 5),
)
def test_a_trial_continues_only_within_the_best_share_so_far(values, factor):
    stop = EarlyStop(min_epochs=1, reduction_factor=factor)
    with tempfile.TemporaryDirectory() as folder:
        for i, value in enumerate(values):
            decided = continues(Path(folder), "vim_tiny", str(i), 1, value, stop)
            so_far = sorted((v for v in values[: i + 1] if not math.isnan(v)), reverse=True)
            best = so_far[: math.ceil((i + 1) / factor)]
            few = i + 1 < factor
            assert decided == (not math.isnan(value) and (few or value >= best[-1]))


def _arrive_often(folder: Path, name: str) -> list[bool]:
    return [arrive(folder, f"{name}{i}", float(i)) for i in range(15)]


def test_two_processes_at_once_leave_all_their_values(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        decided = pool.starmap(_arrive_often, [(tmp_path, "a"), (tmp_path, "b")])
    files = [file for file in (tmp_path / "rungs/vim_tiny/1").iterdir() if not file.name.startswith(".")]
    assert len(files) == 30
    assert decided[0][-1], "the best of its own, and nobody's value is better"
    assert decided[1][-1]
