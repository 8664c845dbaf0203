"""How much of a grid's training a search saves, on the simulated surface.

Grid order, random order, TPE and NSGA-II run over the space of the paper's four strategies, layers 1 to 24 and r 1 to
15, for Vim-Ti. Each run adds up the simulated training time of its trials until they dominate 95 % and 99 % of the
hypervolume (top-1, training time, peak memory) that the whole grid dominates. The reference point is 1.1 times the
unfused time and memory, and a top-1 of 0 %, as in the reports, or of 60 %, which is harder and still below all
published rows. A run ends at 99 % of both hypervolumes, or when it has cost MOST of the whole grid.

Writes results/published/search-simulated/hours_to_hypervolume.csv, draws the held-out seeds in
docs/images/search_comparison.png, and prints the tables of docs/search.md. It takes tens of minutes on two cores:
`PYTHONPATH=tests/support python -m simulated.comparison` in the root of the repository.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from famba_core.config import AugmentConfig, ConfigError, DataConfig, FusionConfig, ModelConfig, TrainConfig
from famba_core.figures import render
from simulated.runs import MOST, REFERENCES_PCT, TARGETS, Method, Run, comparison_figure, comparison_table
from simulated.surface import Simulated, simulate
from sweep.grid.budget import PAPER_GRID, apply_budget, schedule_on
from sweep.grid.search import Search
from sweep.plan.model import Case, Plan, Trial
from sweep.report.pareto import REFERENCE_MARGIN, hypervolume

ROOT = Path(__file__).parents[3]  # of the repository
BACKBONE = "vim_tiny"
CHOSEN_ON, HELD_OUT = range(20), range(1000, 1020)  # seeds: the searches' settings were tuned on the first alone
_LAYER_KEYS = {"lower": "stop_layer", "upper": "start_layer"}


def grid_plan(method: Method, seed: int) -> Plan:
    """Return all feasible cases of the space, in the order in which a grid lists them."""
    strategies: list[tuple[str, list[dict[str, int]]]] = [("all", [{}]), ("interleaved", [{}])]
    strategies += [(name, [{key: n} for n in range(1, 25)]) for name, key in _LAYER_KEYS.items()]
    trials: dict[str, Trial] = {}
    cases = []
    for (strategy, layers), r in itertools.product(strategies, range(1, 16)):
        for layer in layers:
            try:
                labels = FusionConfig(strategy=strategy, r=r, **layer)  # type: ignore[arg-type]
                fusion = schedule_on(apply_budget(labels, None), PAPER_GRID)
            except ConfigError:  # more tokens than the image has
                continue
            trial_id = "-".join(map(str, fusion.schedule))
            trials[trial_id] = Trial(
                trial_id=trial_id,
                study="comparison",
                profile="simulated",
                model=ModelConfig(backbone=BACKBONE),
                fusion=fusion,
                data=DataConfig(),
                augment=AugmentConfig(),
                train=TrainConfig(),
                cpus_per_trial=1,
                gpus_per_trial=1,
            )
            cases.append(Case(backbone=BACKBONE, seed=0, baseline=False, trial_id=trial_id, **vars(labels)))
    return Plan(
        study="comparison",
        profile="simulated",
        paper_table=None,
        objectives={"top1_best_pct": "max", "train_time_s": "min", "peak_memory_mib": "min"},
        trials=tuple(trials.values()),
        cases=tuple(cases),
        search=None if method == "grid" else Search(sampler=method, trials=len(trials), seed=seed),
    )


def run(method: Method, seed: int) -> Run:
    """Run a method until it has reached every target, or spent MOST of the grid's hours."""
    volume, hours_of_all = _volumes_of_all()
    ends: list[Simulated] = []
    hours: list[float] = []
    shares: list[list[float]] = []  # for each trial, one for each reference
    for end in suggested(grid_plan(method, seed)):
        ends.append(end)
        hours.append((hours[-1] if hours else 0.0) + end.train_time_s / 3600)
        shares.append([volume_of(ends, reference) / volume[reference] for reference in REFERENCES_PCT])
        if method != "grid" and (min(shares[-1]) >= TARGETS[-1] or hours[-1] >= MOST * hours_of_all):
            break
    share = dict(zip(REFERENCES_PCT, np.array(shares).T, strict=True))
    return Run(method=method, seed=seed, hours=np.array(hours), share=share)


def suggested(plan: Plan) -> Iterator[Simulated]:
    """Yield the result of each trial that the plan runs. A search learns it before its next suggestion."""
    if plan.search is None:
        yield from (_simulate(trial) for trial in plan.trials)
        return
    from sweep.search.optuna_search import OptunaSearch  # imports Optuna

    search = OptunaSearch(plan)
    while suggestion := search.suggest({}):
        end = _simulate(suggestion.trial)
        yield end
        search.tell(
            {
                "trial_id": suggestion.trial.trial_id,
                "suggestion": suggestion.number,
                "status": "completed",
                "measured": "in_training",
                "top1_best_pct": end.top1_pct,
                "train_time_s": end.train_time_s,
                "peak_memory_mib": end.peak_memory_mib,
            }
        )


def _simulate(trial: Trial) -> Simulated:
    return simulate(BACKBONE, trial.fusion.schedule)


@cache
def _volumes_of_all() -> tuple[dict[float, float], float]:
    """Return the hypervolumes of the whole grid, by the reference's top-1, and its hours."""
    ends = [_simulate(trial) for trial in grid_plan("grid", 0).trials]
    return {top1: volume_of(ends, top1) for top1 in REFERENCES_PCT}, sum(end.train_time_s for end in ends) / 3600


def volume_of(ends: Sequence[Simulated], reference_pct: float) -> float:
    """Return the exact hypervolume, in points of top-1 times the unfused time and memory."""
    unfused = simulate(BACKBONE, (0,) * 24)
    points = np.array(
        [
            (
                end.top1_pct - reference_pct,
                REFERENCE_MARGIN - end.train_time_s / unfused.train_time_s,
                REFERENCE_MARGIN - end.peak_memory_mib / unfused.peak_memory_mib,
            )
            for end in ends
        ]
    )
    return hypervolume(points[(points > 0).all(axis=1)])


def reached(runs: Sequence[Run]) -> pd.DataFrame:
    """Return trials and hours of each run until each target, and the share of the grid's hours.

    They are missing if the run ended before it reached the target.
    """
    _, hours_of_all = _volumes_of_all()
    rows = []
    for one, reference, target in itertools.product(runs, REFERENCES_PCT, TARGETS):
        first = int(np.argmax(one.share[reference] >= target))
        is_reached = bool(one.share[reference][first] >= target)
        hours = float(one.hours[first])
        rows.append(
            {
                "method": one.method,
                "seed": one.seed,
                "reference_top1_pct": reference,
                "target": target,
                "trials": first + 1 if is_reached else None,
                "gpu_hours": hours if is_reached else None,
                "share_of_grid": hours / hours_of_all if is_reached else None,
            }
        )
    return pd.DataFrame(rows).astype({"trials": "Int64"})


def main() -> None:
    jobs: list[tuple[Method, int]] = [("grid", 0)]
    jobs += [(method, seed) for seed in (*CHOSEN_ON, *HELD_OUT) for method in ("tpe", "nsga2", "random")]
    with multiprocessing.Pool(2) as pool:
        publish(pool.starmap(run, jobs, chunksize=1))


def publish(runs: Sequence[Run]) -> None:
    """Write the runs' rows and figure into this repository, and print their tables."""
    rows = reached(runs)
    folder = ROOT / "results" / "published" / "search-simulated"
    folder.mkdir(parents=True, exist_ok=True)
    rows.round(5).to_csv(folder / "hours_to_hypervolume.csv", index=False)
    for seeds in (CHOSEN_ON, HELD_OUT):
        of_seeds = rows[rows["seed"].isin(seeds) | (rows["method"] == "grid")]
        print(f"Seeds {seeds[0]} to {seeds[-1]}:\n\n{comparison_table(of_seeds)}\n")
    held_out = [one for one in runs if one.method == "grid" or one.seed in HELD_OUT]
    drawn = comparison_figure(held_out, _volumes_of_all()[1])
    (ROOT / "docs" / "images" / "search_comparison.png").write_bytes(render(drawn, "png"))


if __name__ == "__main__":
    main()
