"""The clock and the screen of a run."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from fake_training import epoch_metrics, fake_trial, job_of
from rich.console import Console

from sweep.executors.base import TrainJob
from sweep.price.estimate import makespan
from sweep.run.listeners.pace import Pace
from sweep.run.listeners.screen import LAST_ENDED, Screen
from sweep.text import clock


def naive_makespan(running: list[float], waiting: list[float], capacity: int) -> float:
    """Step through time, one end after another."""
    running, waiting, now = sorted(running), list(waiting), 0.0
    while running or waiting:
        while waiting and len(running) < capacity:
            running = sorted([*running, now + waiting.pop(0)])
        now = running.pop(0)
    return now


def test_makespan_is_that_of_stepping_through_time() -> None:
    rng = random.Random(0)
    for _ in range(200):
        capacity = rng.randint(1, 5)
        running = [rng.randint(0, 9) for _ in range(rng.randint(0, capacity))]
        waiting = [rng.randint(1, 9) for _ in range(rng.randint(0, 8))]
        assert makespan(running, waiting, capacity) == naive_makespan(running, waiting, capacity)


def test_study_eta_divides_remaining_work_by_capacity() -> None:
    pace = Pace(dict.fromkeys("abcd", 10.0), waiting="abcd", capacity=2)
    assert pace.study_eta_s() is None
    for trial in "ab":
        pace.start(trial)
        pace.advance(trial, epoch=1, epochs=5, seconds=3.0)
    assert pace.trial_eta_s("a") == pytest.approx(12.0)  # four epochs of 3 s
    assert pace.study_eta_s() == pytest.approx(12.0 + 15.0)  # and then c beside d, five epochs each
    pace.end("a")
    pace.end("b")
    assert pace.study_eta_s() == pytest.approx(15.0)


def test_cheaper_trials_are_expected_to_take_less() -> None:
    pace = Pace({"unfused": 100.0, "fused": 50.0}, waiting=["unfused", "fused"], capacity=1)
    pace.start("unfused")
    pace.advance("unfused", epoch=1, epochs=2, seconds=10.0)
    assert pace.study_eta_s() == pytest.approx(10.0 + 10.0)


def test_eta_of_a_resumed_trial_counts_remaining_epochs() -> None:
    pace = Pace({"a": 10.0}, waiting=["a"], capacity=1)
    pace.start("a")
    assert pace.trial_eta_s("a") is None
    pace.advance("a", epoch=9, epochs=10, seconds=2.0)
    assert pace.trial_eta_s("a") == pytest.approx(2.0)
    pace.end("a")  # lost, and submitted again
    pace.start("a")
    assert pace.trial_eta_s("a") is not None


@pytest.mark.parametrize(("seconds", "text"), [(None, "?"), (0, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_clock(seconds: float | None, text: str) -> None:
    assert clock(seconds) == text


def job_named(trial_id: str) -> TrainJob:
    return job_of(replace(fake_trial(0), trial_id=trial_id))


@contextmanager
def shown(screen: Screen, trials: list[str], *, planned: int, capacity: int) -> Iterator[None]:
    screen.run_began(trials, planned=planned, capacity=capacity)
    try:
        yield
    finally:
        screen.run_ended()


@contextmanager
def measuring(screen: Screen, total: int) -> Iterator[None]:
    screen.measuring_began(total)
    try:
        yield
    finally:
        screen.measuring_ended()


def run_on(console: Console, trials: list[str]) -> Screen:
    screen = Screen(dict.fromkeys(trials, 1.0), console=console)
    with shown(screen, trials, planned=len(trials) + 3, capacity=2):
        for trial in trials[:-1]:
            screen.started(job_named(trial))
            for epoch in (1, 2, 3):
                screen.progress(trial, epoch_metrics(epoch, 3))
            screen.ended(trial, "completed", None)
        screen.started(job_named(trials[-1]))
        screen.progress(trials[-1], epoch_metrics(1, 3))
        screen.ended(trials[-1], "failed", "the loss is nan")
    return screen


def test_without_a_terminal_there_is_a_line_for_each_start_and_end() -> None:
    out = io.StringIO()
    run_on(Console(file=out, width=40), ["a-trial-with-a-long-name-that-is-not-to-be-wrapped", "b"])
    lines = out.getvalue().splitlines()
    assert lines[0] == "2 of 5 trials to train, 2 at a time"
    assert lines[1] == "a-trial-with-a-long-name-that-is-not-to-be-wrapped: started"
    assert lines[2].startswith("a-trial-with-a-long-name-that-is-not-to-be-wrapped: completed, top-1 20.0%; 4/5 done, ")
    assert lines[3:] == ["b: started", "b: failed: the loss is nan"]
    assert "\x1b" not in out.getvalue()


def test_without_a_terminal_progress_is_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("sweep.run.listeners.screen.time.monotonic", lambda: now)
    out = io.StringIO()
    screen = Screen({"a": 1.0}, console=Console(file=out))
    with shown(screen, ["a"], planned=1, capacity=1):
        screen.started(job_named("a"))
        for epoch in range(1, 101):  # an epoch a second
            now += 1.0
            screen.progress("a", epoch_metrics(epoch, 200))
    lines = [line for line in out.getvalue().splitlines() if "epoch" in line]
    assert [line.split(",")[0] for line in lines] == [f"a: epoch {epoch}/200" for epoch in (30, 60, 90)]
    assert lines[-1].endswith("0/1 done, 1:30 elapsed, 1:50 to go")


def test_a_terminal_shows_running_and_last_ended_trials() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    trials = [f"trial{i}" for i in range(12)]
    screen = run_on(console, trials)
    assert "trial11: failed: the loss is nan" in out.getvalue()  # stays, whatever the table shows
    shown = Console(file=io.StringIO(), width=120)
    shown.print(screen._table())
    table = shown.file.getvalue()  # type: ignore[attr-defined]
    assert table.count("trial") == 2 + LAST_ENDED  # and the heading, and the best so far
    assert "trial10" in table
    assert "trial6" not in table
    assert "15/15 done" in table


def test_the_table_has_epoch_loss_accuracy_and_time_left() -> None:
    console = Console(file=io.StringIO(), width=120)
    screen = Screen({"a": 1.0, "b": 1.0}, console=console)
    with shown(screen, ["a", "b"], planned=2, capacity=2):
        screen.started(job_named("a"))
        screen.started(job_named("b"))
        screen.progress("a", epoch_metrics(2, 3))
        console.file = io.StringIO()
        console.print(screen._table())
    lines = console.file.getvalue().splitlines()
    assert lines[1].split()[:3] == ["a", "training", "2/3"]
    assert lines[1].split()[-3:] == ["1.000", "30.0%", "0:00"]
    assert lines[2].split() == ["b", "starting"]


def test_without_a_terminal_the_measuring_phase_has_a_line_at_each_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("sweep.run.listeners.screen.time.monotonic", lambda: now)
    out = io.StringIO()
    screen = Screen({"a": 1.0}, console=Console(file=out))
    with shown(screen, ["a"], planned=1, capacity=1):
        with measuring(screen, 15):
            for done in range(1, 16):  # one in 4 s
                now += 4.0
                screen.measured(done)
        screen.started(job_named("a"))
    assert out.getvalue().splitlines() == [
        "1 of 1 trials to train, 1 at a time",
        "measuring 15 schedules first, one at a time",
        "measuring 9 of 15 schedules",  # after 32 s
        "measuring took 1:00",
        "a: started",
    ]


def test_the_measuring_of_each_batch_of_a_search_is_said_once() -> None:
    out = io.StringIO()
    screen = Screen({"a": 1.0}, console=Console(file=out))
    with shown(screen, ["a"], planned=1, capacity=1):
        for total in (2, 1, 2):
            with measuring(screen, total):
                screen.measured(total)
    assert out.getvalue().splitlines()[1:] == ["measuring 2 schedules first, one at a time", "measuring took 0:00"]


def test_a_terminal_shows_which_is_measured_and_then_the_trials() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    screen = Screen({"a": 1.0}, console=console)

    def total() -> str:
        shown = Console(file=io.StringIO(), width=100)
        shown.print(screen._table())
        return shown.file.getvalue().splitlines()[-2]  # type: ignore[attr-defined]

    with shown(screen, ["a"], planned=1, capacity=1):
        with measuring(screen, 2):
            assert total().startswith("measuring 1 of 2 schedules, 0:0")
            screen.measured(1)
            assert total().startswith("measuring 2 of 2 schedules, 0:0")
            screen.measured(2)
            assert total().startswith("measuring 2 of 2 schedules, 0:0")
        assert total().startswith("0/1 done, ")
    assert "measuring took" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_phase_that_is_interrupted_is_over() -> None:
    screen = Screen({"a": 1.0}, console=Console(file=io.StringIO()))
    with shown(screen, ["a"], planned=1, capacity=1):
        with pytest.raises(KeyboardInterrupt), measuring(screen, 1):
            raise KeyboardInterrupt
        assert screen._total().startswith("0/1 done")


class ReflowingTerminal(io.StringIO):
    """A terminal that breaks its lines anew when its width changes, as most do."""

    def __init__(self) -> None:
        super().__init__()
        self.lines, self.row = [""], 0

    def resize(self, width: int) -> None:
        self.lines = [
            line[i : i + width] for line in self.lines[: self.row + 1] for i in range(0, max(1, len(line)), width)
        ]
        self.row = len(self.lines) - 1

    def write(self, text: str) -> int:
        row = self.row
        for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|\n|\r|[^\x1b\n\r]+", text):
            if part == "\n":
                row += 1
                self.lines += [""] * (row >= len(self.lines))
            elif part.endswith("A") and part.startswith("\x1b"):
                row -= int(part[2:-1])
            elif part == "\x1b[2K":
                self.lines[row] = ""
            elif not part.startswith(("\x1b", "\r")):
                self.lines[row] += part
        self.row = row
        return len(text)


TRIALS = [f"vim_nano-{start}to24-28tokens-seed0-0123456789" for start in (15, 14)]


def words_of(lines: list[str]) -> list[str]:
    return [word for line in lines for word in line.split()]


def test_a_terminal_made_narrower_in_mid_run_keeps_no_remains_of_wide_lines() -> None:
    terminal = ReflowingTerminal()
    console = Console(file=terminal, force_terminal=True, width=120, height=40, color_system=None)
    screen = Screen(dict.fromkeys(TRIALS, 1.0), console=console)
    with shown(screen, TRIALS, planned=2, capacity=2):
        for trial in TRIALS:
            screen.started(job_named(trial))
            screen.progress(trial, epoch_metrics(1, 3))
        assert screen._live
        screen._live.auto_refresh = False
        screen._live.refresh()
        assert any("0123456789" in line for line in terminal.lines)
        for width in (80, 60, 120):
            terminal.resize(width)
            console.width = width
            screen._live.refresh()
            whole = [line for line in terminal.lines if line.strip()]
            assert whole[0] == "2 of 2 trials to train, 2 at a time"
            assert max(map(len, whole)) <= width
            assert words_of(whole).count("top-1") == 2  # the heading and the best so far
            assert words_of(whole).count("vim_nano-14to24-28tokens-seed0") == 1


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_every_number_of_the_live_table_can_be_read(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    screen = Screen(dict.fromkeys(TRIALS, 1.0), console=console)
    with shown(screen, TRIALS, planned=2, capacity=2):
        for trial in TRIALS:
            screen.started(job_named(trial))
        screen.progress(TRIALS[0], epoch_metrics(2, 3))
        console.file = io.StringIO()
        console.print(screen._table())
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert {"vim_nano-15to24-28tokens-seed0", "2/3", "1.000", "30.0%", "0:00"} <= set(lines[1].split())
    assert "…" not in console.file.getvalue()
    text = " ".join(words_of(lines))
    assert "best top-1 30.0%: vim_nano-15to24-28tokens-seed0; 100% of the time in training; ends about " in text
