"""Synthetic studies: the paper's cases with numbers near the published ones, the same on every call."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from famba_core.config import AugmentConfig, DataConfig, FusionConfig, FusionSchedule, ModelConfig, TrainConfig
from famba_core.fusion.schedule import fusing_layers, spread, tokens_per_layer
from sweep.files.code import code_hash
from sweep.plan.model import Case, Plan, Trial
from sweep.report.published import paper_table
from sweep.report.study_data import StudyData
from sweep.schema import EpochRow, ResultRow
from sweep.store import study as store

OBJECTIVES = {"top1_best_pct": "max", "train_time_s": "min", "peak_memory_mib": "min"}
SMALL = {"vim_tiny": "vim_nano", "vim_small": "vim_nano_small"}


def table_plan(number: int, seeds: Sequence[int] = (0,)) -> Plan:
    """Return the plan of one of the paper's tables, on small images."""
    cases, trials = [], {}
    for seed in seeds:
        for line in paper_table(number).to_dict("records"):
            strategy = line["strategy"]
            labels: dict[str, Any] = {
                "strategy": strategy,
                "start_layer": line["start_layer"] if strategy == "upper" else None,
                "stop_layer": 19 if strategy == "lower" else None,
                "r": line["r"] if strategy != "none" else None,
            }
            layers = fusing_layers(FusionConfig(**labels), 24)
            total = round(len(layers) * int(line["r"]) * 64 / 196)
            trial = _trial(SMALL[line["backbone"]], seed, labels, spread(total, layers, 24) if layers else (0,) * 24)
            trials.setdefault(trial.trial_id, trial)
            cases.append(
                Case(
                    backbone=trial.model.backbone,
                    **labels,
                    order="concat",
                    weighting="mean",
                    seed=seed,
                    baseline=strategy == "none",
                    trial_id=trial.trial_id,
                )
            )
    return Plan(
        study=f"table_{number}",
        profile="laptop",
        paper_table=number,
        objectives=OBJECTIVES,
        trials=tuple(trials.values()),
        cases=tuple(cases),
    )


def results(plan: Plan) -> list[ResultRow]:
    """Return a completed row for each trial, with the published numbers scaled down and some noise."""
    published = {
        (SMALL[line["backbone"]], *_key(line)): line
        for number in (1, 2, 3)
        for line in paper_table(number).to_dict("records")
    }
    rng = np.random.default_rng(2024)
    rows = []
    for trial in plan.trials:
        labels = vars(plan.first_cases[trial.trial_id].labels)
        line = published[trial.model.backbone, *_key(labels)]
        noise = 1 + 0.01 * rng.standard_normal(5)
        best = float(min(99.0, line["top1_pct"] * 1.25 * noise[0]))
        started_at = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
        rows.append(
            result(
                trial,
                labels=plan.first_cases[trial.trial_id].labels,
                top1_best_pct=best,
                top1_pct=best - 0.6,
                top1_ema_pct=best - 0.2,
                top5_pct=min(99.9, best + 12),
                train_time_s=float(line["train_time_s"] / 400 * noise[1]),
                peak_memory_mib=float(line["peak_memory_mib"] / 40 * noise[2]),
                started_at=started_at,
                finished_at=started_at + dt.timedelta(seconds=60),
            )
        )
    return rows


def result(
    trial: Trial,
    *,
    attempt: int = 1,
    status: str = "completed",
    labels: FusionConfig = FusionConfig(strategy="upper", start_layer=13, r=1),  # noqa: B008 - frozen
    **measured: Any,
) -> ResultRow:
    """Return a row of a trial as a worker writes it."""
    fusion, schedule = trial.fusion, trial.fusion.schedule
    return ResultRow(
        study=trial.study,
        trial_id=trial.trial_id,
        attempt=attempt,
        status=status,
        backbone=trial.model.backbone,
        strategy=labels.strategy,
        start_layer=labels.start_layer,
        stop_layer=labels.stop_layer,
        r=labels.r,
        order=fusion.order,
        weighting=fusion.weighting,
        schedule=schedule,
        reduced_tokens=sum(schedule),
        tokens_per_image=sum(tokens_per_layer(schedule, trial.model.num_tokens)),
        dataset=trial.data.dataset,
        profile=trial.profile,
        image_size=trial.model.image_size,
        patch_size=trial.model.patch,
        cls_position=trial.model.cls_position,
        epochs=trial.train.epochs,
        batch_size=trial.train.batch_size,
        precision=trial.train.precision,
        seed=trial.train.seed,
        cpus_per_trial=trial.cpus_per_trial,
        gpus_per_trial=trial.gpus_per_trial,
        parameters=412_000,
        device_name="Imaginary CPU",
        torch_version="2.13.0",
        code_hash=code_hash(),
        **measured,
    )


def curve(row: ResultRow) -> list[EpochRow]:
    """Return epochs whose accuracy rises to that of the row."""
    return [
        EpochRow(
            study=row.study,
            trial_id=row.trial_id,
            attempt=row.attempt,
            epoch=epoch,
            loss=2.3 * float(np.exp(-epoch / 5)) + 0.2,
            lr=1e-3 * (1 - epoch / (row.epochs + 1)),
            top1_pct=(row.top1_pct or 0) * (1 - float(np.exp(-epoch / 3))),
            top5_pct=95.0,
            top1_ema_pct=None,
            train_time_s=2.0,
        )
        for epoch in range(1, row.epochs + 1)
    ]


def save(folder: Path, rows: Sequence[ResultRow]) -> Path:
    store.create_study(folder)
    for row in rows:
        store.write_result(folder, row, curve(row))
    return folder


def data_of(plan: Plan, rows: pd.DataFrame) -> StudyData:
    """Return a study's data as a report reads it, without learning curves."""
    return StudyData(plan=plan, rows=rows, epochs=pd.DataFrame())


def files(folder: Path) -> list[str]:
    """Return the relative paths of all files in a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _trial(backbone: str, seed: int, labels: dict[str, Any], schedule: tuple[int, ...]) -> Trial:
    name = "-".join(str(part) for part in (backbone, *labels.values(), seed) if part is not None)
    return Trial(
        trial_id=name,
        study="synthetic",
        profile="laptop",
        model=ModelConfig(backbone=backbone, image_size=32, num_classes=10),
        fusion=FusionSchedule(schedule=schedule),
        data=DataConfig(dataset="digits"),
        augment=AugmentConfig(),
        train=TrainConfig(epochs=20, batch_size=64, seed=seed),
        cpus_per_trial=1,
        gpus_per_trial=0.0,
    )


def _key(labels: dict[str, Any]) -> tuple[Any, ...]:
    start_layer = labels["start_layer"] if labels["strategy"] == "upper" else None
    return labels["strategy"], start_layer, labels["r"] or 0
