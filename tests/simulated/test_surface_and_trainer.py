"""The surface runs close to the published rows, and the trainer on it behaves as the real one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from fake_training import fake_trial, job_of
from simulated.surface import published_rows, simulate
from simulated.trainer import SimulatedTrainer, new_trainer, run_job

from famba_core.config import FusionSchedule
from famba_core.fusion.schedule import spread
from sweep.executors.base import Finished, MeasureJob
from sweep.store.layout import StudyPaths
from sweep.store.study import read_epochs, read_rows

UNFUSED = (0,) * 24


@pytest.fixture(scope="module")
def compared() -> pd.DataFrame:
    rows = published_rows()
    fitted = [dataclasses.asdict(simulate(row.backbone, row.schedule)) for row in rows.itertuples()]
    return rows.join(pd.DataFrame(fitted).add_prefix("fit_"))


def r_squared(rows: pd.DataFrame, column: str) -> float:
    values, fitted = rows[column].to_numpy(float), rows[f"fit_{column}"].to_numpy(float)
    return 1 - float(((values - fitted) ** 2).sum() / ((values - values.mean()) ** 2).sum())


def test_the_fit_is_to_all_33_rows(compared):
    assert len(compared) == 33
    assert compared["backbone"].value_counts().to_dict() == {"vim_tiny": 28, "vim_small": 5}
    # three cases by hand: Table 1's lower strategy, Table 2's first row, Table 3's last
    schedules = compared["schedule"]
    assert schedules[3] == (9,) * 19 + (0,) * 5
    assert schedules[10] == (0,) * 14 + (15,) * 10
    assert schedules[32] == (0,) * 5 + (1,) * 19


@pytest.mark.parametrize(
    ("backbone", "column", "least", "largest_error"),
    [
        ("vim_tiny", "train_time_s", 0.95, 0.032),
        ("vim_tiny", "peak_memory_mib", 0.999, 0.017),
        ("vim_tiny", "top1_pct", 0.96, 0.021),
        ("vim_small", "train_time_s", 0.998, 0.008),
        ("vim_small", "peak_memory_mib", 0.995, 0.024),
        ("vim_small", "top1_pct", 0.94, 0.016),
    ],
)
def test_the_surface_explains_the_published_numbers(compared, backbone, column, least, largest_error):
    rows = compared[compared["backbone"] == backbone]
    assert r_squared(rows, column) > least
    assert (rows[f"fit_{column}"] / rows[column] - 1).abs().max() < largest_error


def test_strategies_keep_their_published_order(compared):
    table_1 = compared[:5].set_index("strategy")
    for column in ("train_time_s", "peak_memory_mib"):
        assert list(table_1[f"fit_{column}"].sort_values().index) == list(table_1[column].sort_values().index)
    # of top-1, what is told apart: no fusion and upper, and all and lower, are within half a point
    top1 = table_1["fit_top1_pct"]
    assert top1[["all", "lower"]].max() + 2 < top1["interleaved"] < top1[["none", "upper"]].min() - 2


def test_more_tokens_removed_and_sooner_is_cheaper():
    for removed in (10, 50, 150):
        costs = [simulate("vim_tiny", spread(removed, range(start, start + 4), 24)) for start in range(1, 22)]
        assert (np.diff([cost.train_time_s for cost in costs]) > 0).all()
        assert (np.diff([cost.peak_memory_mib for cost in costs]) > 0).all()
    for r in range(1, 14):
        less, more = (simulate("vim_tiny", (0,) * 10 + (n,) * 14) for n in (r, r + 1))
        assert more.train_time_s < less.train_time_s
        assert more.peak_memory_mib < less.peak_memory_mib


def test_fusing_in_the_first_layers_costs_accuracy_and_in_the_last_gains_some():
    unfused = simulate("vim_tiny", UNFUSED).top1_pct
    by_start = [simulate("vim_tiny", spread(100, range(start, 25), 24)).top1_pct for start in range(1, 16)]
    assert (np.diff(by_start) > 0).all()
    assert by_start[0] < unfused < by_start[-1]


def test_fewer_patches_and_a_narrow_backbone_stand_for_the_papers():
    paper = simulate("vim_tiny", (0,) * 12 + (8,) * 12)
    half = simulate("vim_nano", (0,) * 12 + (4,) * 12, num_patches=98)
    assert half.top1_pct == pytest.approx(paper.top1_pct)
    assert half.train_time_s == pytest.approx(paper.train_time_s, rel=0.005)
    with pytest.raises(ValueError, match="vim_base stands for none"):
        simulate("vim_base", UNFUSED)


def trial_on_64_patches(seed: int, epochs: int):
    trial = fake_trial(seed, epochs=epochs)
    schedule = (0,) * 12 + (2,) * 12
    return dataclasses.replace(trial, fusion=FusionSchedule(schedule=schedule))


def test_a_trial_is_stored_with_the_numbers_of_the_surface(tmp_path):
    trial = trial_on_64_patches(0, epochs=6)
    end = simulate("vim_tiny", trial.fusion.schedule, num_patches=64)
    job = run_job(job_of(trial), tmp_path)
    top1 = [metrics.top1_pct for metrics in job]
    assert top1 == sorted(set(top1))
    row = read_rows(tmp_path)[0].iloc[0]
    assert row["status"] == "completed"
    assert row["top1_best_pct"] == row["top1_pct"] == top1[-1] == pytest.approx(end.top1_pct)
    assert row["train_time_s"] == pytest.approx(end.train_time_s * 6 / 300)
    assert row["peak_memory_mib"] == end.peak_memory_mib
    assert row["device_name"] == "simulated"
    assert read_epochs(tmp_path)[0]["train_time_s"].sum() == pytest.approx(row["train_time_s"])


def test_a_killed_trial_resumes_to_the_same_result(tmp_path):
    trial = trial_on_64_patches(0, epochs=5)
    whole = list(new_trainer(trial, None))
    job = run_job(job_of(trial), tmp_path)
    begun = [next(job), next(job)]
    job.close()
    assert (StudyPaths(tmp_path).checkpoint(trial.trial_id) / "last.pt").exists()
    assert begun + list(run_job(job_of(trial), tmp_path)) == whole
    assert list(read_epochs(tmp_path)[0]["top1_pct"]) == [metrics.top1_pct for metrics in whole]


def test_noise_is_off_by_default_and_follows_the_seed():
    def final(seed: int, **options: float) -> float:
        trial = trial_on_64_patches(seed, epochs=2)
        trainer = SimulatedTrainer(model=trial.model, fusion=trial.fusion, train=trial.train, **options)
        return [metrics.top1_pct for metrics in trainer][-1]

    assert final(0) == final(1)
    noisy = [final(seed, noise_pct=0.5) for seed in range(200)]
    assert final(7, noise_pct=0.5) == noisy[7]
    assert np.std(noisy) == pytest.approx(0.5, rel=0.25)
    assert np.mean(noisy) == pytest.approx(final(0), abs=0.2)


def test_a_measuring_job_measures_nothing(tmp_path):
    job = run_job(MeasureJob(trials=(trial_on_64_patches(0, epochs=1),)), tmp_path)
    with pytest.raises(StopIteration) as end:
        next(job)
    assert end.value.value == Finished(job_id="measuring", status="completed", error=None)
    assert list(tmp_path.iterdir()) == []
