"""A search run by the runner: it resumes, is repeatable, and copies results of other studies."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from fake_executor import FakeExecutor
from fake_training import job_of, screen_of
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from simulated.trainer import run_job

from sweep.executors.base import Event, Progress
from sweep.executors.local import LocalExecutor
from sweep.grid.budget import train_cost_ratio
from sweep.grid.search import EarlyStop, Search
from sweep.grid.spec import load_spec
from sweep.plan.build import make_plan
from sweep.plan.model import Plan
from sweep.run.result_cache import ResultCache
from sweep.run.runner import RunSummary, missing_trials, run_plan
from sweep.store.layout import StudyPaths
from sweep.store.progress import TrialProgress
from sweep.store.study import read_rows, write_result
from sweep.worker.rows import failed_row

GRID = Path(__file__).parents[3] / "grids" / "optuna_pareto.yaml"


def search_plan(trials: int = 8, *, early_stop: EarlyStop | None = None) -> Plan:
    plan = make_plan(load_spec(GRID), "laptop")
    reference = {trial.trial_id for trial in plan.baselines}
    stopping = tuple(t if t.trial_id in reference else replace(t, early_stop=early_stop) for t in plan.trials)
    return replace(plan, trials=stopping, search=Search(sampler="tpe", trials=trials, seed=3))


def run(plan: Plan, folder: Path, executor: Any = None, **options: Any) -> RunSummary:
    factory = executor or partial(LocalExecutor, run=run_job)
    return run_plan(plan, folder, factory, listeners=[screen_of(plan)], **options)


def chosen(folder: Path) -> list[tuple[int, str, str]]:
    """Return (number, trial, status) of the search's trials, in the order of suggestion."""
    rows = read_rows(folder)[0].query("suggestion.notna()").sort_values("suggestion")
    return list(rows[["suggestion", "trial_id", "status"]].itertuples(index=False, name=None))


@pytest.fixture(autouse=True)
def nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.run.measuring.MeasuringPhase.run", lambda phase, trials: None)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, str]]:
    folder = tmp_path_factory.mktemp("undisturbed") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweep.run.measuring.MeasuringPhase.run", lambda phase, trials: None)
        assert run(search_plan(), folder) == RunSummary(requested=9, completed=9, failed=0)
    return chosen(folder)


def test_a_search_runs_its_number_of_trials_and_the_baseline(
    tmp_path: Path, undisturbed: list[tuple[int, str, str]]
) -> None:
    assert [number for number, _, _ in undisturbed] == list(range(1, 9))
    assert len({trial for _, trial, _ in undisturbed}) == 8
    assert len(missing_trials(search_plan(), tmp_path, read_rows(tmp_path))) == 9
    assert len(missing_trials(search_plan(), tmp_path, read_rows(tmp_path), limit=2)) == 3


def test_limits_and_resumes_do_not_change_suggestions(tmp_path: Path, undisturbed: list[tuple[int, str, str]]) -> None:
    for done in (2, 4, 6, 8):
        summary = run(search_plan(), tmp_path, limit=2)
        assert summary == RunSummary(requested=done + 1, completed=done + 1, failed=0)
        assert chosen(tmp_path) == undisturbed[:done]
    assert run(search_plan(), tmp_path, limit=2) == RunSummary(requested=9, completed=9, failed=0)
    assert (tmp_path / "optuna.log").exists()


class InterruptedExecutor(LocalExecutor):
    """Sends Ctrl-C in the second epoch of the fourth trial."""

    submitted = 0

    def submit(self, job: Any) -> None:
        self.submitted += 1
        super().submit(job)

    def poll(self, timeout_s: float) -> list[Event]:
        events = super().poll(timeout_s)
        if self.submitted == 4 and any(isinstance(event, Progress) for event in events):
            raise KeyboardInterrupt
        return events


def test_an_interrupted_search_resumes_its_unfinished_trial(
    tmp_path: Path, undisturbed: list[tuple[int, str, str]]
) -> None:
    assert run(search_plan(), tmp_path, partial(InterruptedExecutor, run=run_job)).exit_code == 130
    assert chosen(tmp_path) == undisturbed[:2]  # the baseline came first
    begun = undisturbed[2][1]
    progress = TrialProgress.read(StudyPaths(tmp_path).checkpoint(begun))
    assert progress is not None
    assert (progress.epoch, progress.suggestion) == (1, 3)
    # with another seed the search would choose otherwise; what was begun comes first all the same
    plan = search_plan()
    assert plan.search
    run(replace(plan, search=replace(plan.search, seed=99)), tmp_path, limit=1)
    assert chosen(tmp_path) == undisturbed[:3]
    assert run(plan, tmp_path).completed == 9


def test_results_copied_from_other_studies_do_not_count_towards_the_limit(
    tmp_path: Path, undisturbed: list[tuple[int, str, str]], capsys: pytest.CaptureFixture
) -> None:
    other = tmp_path / "other-laptop"
    assert run(search_plan(), other, limit=3).completed == 4
    study = tmp_path / "study-laptop"
    summary = run(search_plan(), study, limit=2, cache=ResultCache(tmp_path, study))
    assert (summary.copied, summary.completed) == (4, 6)
    assert chosen(study) == undisturbed[:5]
    sources = read_rows(study)[0].set_index("trial_id")["source"]
    assert sources[undisturbed[0][1]] == f"other-laptop/{undisturbed[0][1]}.1"
    assert sources[[trial for _, trial, _ in undisturbed[3:5]]].isna().all()


def test_early_stopping_prunes_trials_and_the_search_learns_it(tmp_path: Path) -> None:
    plan = search_plan(12, early_stop=EarlyStop(min_epochs=2, reduction_factor=2))
    summary = run(plan, tmp_path)
    assert summary.requested == 13
    assert summary.pruned >= 2
    assert summary.completed + summary.pruned == 13
    rows = read_rows(tmp_path)[0]
    pruned = rows[rows["status"] == "pruned"]
    assert pruned["train_time_s"].isna().all()
    assert pruned["top1_best_pct"].notna().all()
    assert (rows[rows["suggestion"].isna()]["status"] == "completed").all(), "a baseline trains to its end"
    assert summary.sentence == f"{summary.completed} of 13 trials completed, {summary.pruned} ended early"
    before = chosen(tmp_path)
    assert run(plan, tmp_path) == summary
    # without early stop those that were pruned are still to be trained
    run(search_plan(12), tmp_path)
    rows = read_rows(tmp_path)[0]
    assert {trial for _, trial, _ in chosen(tmp_path)} == {trial for _, trial, _ in before}
    assert set(rows[rows["status"] == "pruned"]["trial_id"]) <= set(rows[rows["status"] == "completed"]["trial_id"])


def test_a_failed_trial_counts_and_is_retried_only_on_request(
    tmp_path: Path, undisturbed: list[tuple[int, str, str]]
) -> None:
    plan = search_plan(3)
    first = next(trial for trial in plan.trials if trial.trial_id == undisturbed[0][1])
    write_result(tmp_path, failed_row(job_of(first, suggestion=1), "made up"), ())
    assert run(plan, tmp_path) == RunSummary(requested=4, completed=3, failed=1)
    assert [status for _, _, status in chosen(tmp_path)] == ["failed", "completed", "completed"]
    assert run(plan, tmp_path, retry_failed=True) == RunSummary(requested=4, completed=4, failed=0)
    rows = read_rows(tmp_path)[0]
    assert rows[rows["trial_id"] == first.trial_id][["attempt", "status"]].values.tolist() == [
        [1, "failed"],
        [2, "completed"],
    ]


def test_a_search_ends_when_every_candidate_was_tried(tmp_path: Path) -> None:
    plan = search_plan(50)
    kept = [*plan.baselines, *plan.trials[1:4]]
    names = {trial.trial_id for trial in kept}
    small = replace(plan, trials=tuple(kept), cases=tuple(case for case in plan.cases if case.trial_id in names))
    assert run(small, tmp_path) == RunSummary(requested=4, completed=4, failed=0)


ISO_COST = """
study: iso_cost
reference_patches: 196
search: {kind: optuna, sampler: nsga2, trials: 100}
early_stop: {kind: asha, min_epochs: 2, reduction_factor: 2}
baselines: [{strategy: none}]
space: {strategy: [interleaved, lower, upper], start_layer: {from: 6, to: 24}, stop_layer: {from: 12, to: 24, step: 4}}
budget: {train_cost_ratio: 0.75, rule: exact, tolerance: 0.05}
constraints: [peak_memory_mib <= 7000, top1_best_pct >= 70]
profiles: {paper: {backbone: vim_tiny, dataset: digits, image_size: 224, epochs: 8}}
"""


def test_an_iso_cost_search_with_constraints_and_early_stopping_tries_every_candidate(tmp_path: Path) -> None:
    (tmp_path / "iso_cost.yaml").write_text(ISO_COST)
    plan = make_plan(load_spec(tmp_path / "iso_cost.yaml"), "paper")
    summary = run(plan, tmp_path / "study")
    assert summary.requested == summary.completed + summary.pruned == len(plan.trials)
    assert summary.pruned >= 3
    assert run(plan, tmp_path / "study") == summary
    schedules = [trial.fusion.schedule for trial in plan.trials[1:]]
    assert all(train_cost_ratio(schedule) == pytest.approx(0.75, rel=0.05) for schedule in schedules if schedule)
    logged = optuna.load_study(
        study_name="iso_cost", storage=JournalStorage(JournalFileBackend(str(tmp_path / "study" / "optuna.log")))
    ).get_trials()
    assert len(logged) == len(schedules)
    for trial in logged:
        completed = trial.state == optuna.trial.TrialState.COMPLETE
        assert set(trial.constraints) == ({"peak_memory_mib <= 7000", "top1_best_pct >= 70"} if completed else set())


def run_first(executor: FakeExecutor) -> list[Event]:
    """Run the oldest of the running jobs to its end."""
    job = executor.running.pop(next(iter(executor.running)))
    steps = run_job(job, executor.folder)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return [end.value]


def test_trials_that_share_a_device_are_measured_and_start_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    monkeypatch.setattr("sweep.run.measuring.MeasuringPhase.run", lambda phase, trials: measured.append(len(trials)))
    executor = FakeExecutor(run_first, capacity=2)
    assert run(search_plan(6), tmp_path, executor).completed == 7
    # a round starts only when nothing of the round before runs
    assert list(map(len, executor.beside)) == [1, 2, 1, 2, 1, 2, 1]
    assert measured == [2, 2, 2, 1]
    assert pd.Series([number for number, _, _ in chosen(tmp_path)]).is_unique


def test_a_stopped_search_counts_the_trials_that_it_would_have_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def act(executor: FakeExecutor) -> list[Event]:
        if len(executor.submitted) > 2:
            raise KeyboardInterrupt
        return run_first(executor)

    summary = run(search_plan(6), tmp_path, FakeExecutor(act, capacity=1))
    assert (summary.interrupted, summary.completed, summary.requested) == (True, 2, 7)
    assert "Stopped: 2 of 7 trials are stored." in capsys.readouterr().out
    assert run(search_plan(6), tmp_path).sentence == "7 of 7 trials completed"
