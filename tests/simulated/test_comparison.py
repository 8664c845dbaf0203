"""The comparison of searches: its space, and what it publishes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from simulated import comparison
from simulated.comparison import CHOSEN_ON, HELD_OUT, grid_plan, publish
from simulated.runs import REFERENCES_PCT, Method, Run


def test_the_compared_space_is_every_feasible_schedule_once():
    plan = grid_plan("tpe", 0)
    schedules = [trial.fusion.schedule for trial in plan.trials]
    assert len(set(schedules)) == len(schedules) == 606
    assert len(plan.cases) == 620
    # all layers at r 8: 197 - 23 * 8 = 13 tokens reach layer 24, which can fuse 6 away
    by_strategy = {s: {case.r for case in plan.cases if case.strategy == s} for s in ("all", "interleaved")}
    assert by_strategy == {"all": set(range(1, 8)), "interleaved": set(range(1, 16))}


def made_up_run(method: Method, seed: int, reaches: float) -> Run:
    """Two trials; the second, after a tenth of the grid's 2,652 hours, ends at this share of the volumes."""
    return Run(
        method=method,
        seed=seed,
        hours=np.array([100.0, 265.2]),
        share=dict.fromkeys(REFERENCES_PCT, np.array([0.5, reaches])),
    )


def test_seeds_that_settings_were_chosen_on_have_a_table_of_their_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs" / "images").mkdir(parents=True)
    monkeypatch.setattr(comparison, "ROOT", tmp_path)
    runs = [made_up_run("grid", 0, 0.96)]
    for method in ("random", "tpe", "nsga2"):
        runs += [made_up_run(method, seed, 0.96) for seed in CHOSEN_ON]
        runs += [made_up_run(method, seed, 0.94) for seed in HELD_OUT]
    publish(runs)
    chosen_on, held_out = capsys.readouterr().out.split("Seeds 1000 to 1019:")
    assert chosen_on.startswith("Seeds 0 to 19:")
    assert "| NSGA-II | 10% (10% to 10%) | > 50% (> 50% to > 50%) |" in chosen_on
    assert "| NSGA-II | > 50% (> 50% to > 50%) | > 50%" in held_out
    assert all("| grid order | 10% | > 50% |" in table for table in (chosen_on, held_out))
    rows = pd.read_csv(tmp_path / "results" / "published" / "search-simulated" / "hours_to_hypervolume.csv")
    assert set(rows["seed"]) == {*CHOSEN_ON, *HELD_OUT}
    assert (tmp_path / "docs" / "images" / "search_comparison.png").stat().st_size > 10_000
