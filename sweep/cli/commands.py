"""The commands of `famba-sweep`. Slow imports wait until a command needs them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.errors import UserError
from sweep.terminal import Heading, print_sentence, print_table

if TYPE_CHECKING:
    from sweep.executors.base import Executor, ResourceRequest
    from sweep.grid.spec import SweepSpec
    from sweep.plan.model import Plan, Trial
    from sweep.price.estimate import Price
    from sweep.report.write import Report
    from sweep.store.study import StoredRows

ASK_ABOVE_DEVICE_HOURS = 1.0


def run(options: argparse.Namespace) -> int:
    if options.address and options.executor == "in-process":
        raise UserError("--address needs --executor ray; in-process uses no cluster")
    from sweep.run.listeners.screen import Screen
    from sweep.run.result_cache import ResultCache
    from sweep.run.runner import missing_trials, run_plan

    spec, plan, folder, stored, priced = _prepare(options)
    missing = missing_trials(plan, folder, stored, limit=options.limit, retry_failed=options.retry_failed)
    hours = sum(trial.device_hours for trial in priced.of(missing))
    if hours > ASK_ABOVE_DEVICE_HOURS and not options.yes:  # it may be a mistake
        raise UserError(
            f"{len(missing)} trials take about {hours:.1f} hours of one {priced.unit}: pass --yes to start "
            "them, --limit N for fewer, or another --profile"
        )
    _check_images(spec, plan, missing)
    if missing and not plan.trials[0].gpus_per_trial:
        from famba_core.ops.cpu.build import library

        library()  # built once here, not by every worker at the same time
    weights = {trial_id: trial.device_hours for trial_id, trial in priced.trials.items()}
    summary = run_plan(
        plan,
        folder,
        partial(_make_executor, options),
        listeners=[Screen(weights)],
        stored=stored,
        limit=options.limit,
        retry_failed=options.retry_failed,
        cache=None if options.no_cache else ResultCache(folder.parent, folder),
        is_device=priced.device.could_be,
    )
    if summary.interrupted:
        return summary.exit_code
    from sweep.report.write import write_report

    _print_report(write_report(folder), summary.sentence)
    return summary.exit_code


def plan(options: argparse.Namespace) -> int:
    from sweep.price.forecast import forecast
    from sweep.price.shopping_list import list_prices
    from sweep.price.text import GLOSSARY, HEADINGS, headline, list_trials, price_cells, price_lines, stored_line
    from sweep.run.runner import by_trial, missing_trials

    spec, plan, folder, stored, priced = _prepare(options, needs_data=False)
    left_out = spec.left_out + len(spec.cases) - len({case.labels for case in plan.cases if not case.baseline})
    print_sentence(headline(plan, options.limit, left_out=left_out))
    statuses = {trial_id: row["status"] for trial_id, row in by_trial(stored.rows).items()}
    missing = missing_trials(plan, folder, stored, limit=options.limit)
    if line := stored_line(plan, options.limit, statuses, missing):
        print_sentence(line)
    run = forecast(plan, priced, missing)
    cut = run.cut(time_limit_h=plan.pool.time_limit_h, gpu_hours=plan.pool.gpu_hours)
    listed = list(list_prices(plan, priced, list_trials(plan, options.limit), statuses, run, cut))
    print_table(HEADINGS, price_cells(plan, listed))
    print_sentence(GLOSSARY)
    patches = plan.trials[0].model.num_patches
    if any(case.reference_patches not in (None, patches) for case in spec.cases):
        print_sentence(
            f"r and budgets are the paper's, for its 196 patches; these images have {patches} and lose the same share."
        )
    for line in price_lines(plan, priced, missing):
        print_sentence(line)
    shared = sum("; " in row.cases for row in listed)
    if shared:
        print_sentence(f"{shared} trials each cover several cases with the same schedule, which run once")
    return 0


def price_sentences(options: argparse.Namespace) -> Iterator[str]:
    """Yield what `plan` says of the price."""
    from sweep.price.text import price_lines
    from sweep.run.runner import missing_trials

    _, plan, folder, stored, priced = _prepare(options, needs_data=False)
    yield from price_lines(plan, priced, missing_trials(plan, folder, stored))


def compact(options: argparse.Namespace) -> int:
    from sweep.store.compaction.compact import compact

    print(compact(options.study).sentence)
    return 0


def report(options: argparse.Namespace) -> int:
    from sweep.report.write import write_report

    for file in write_report(options.study).files:
        print(_relative(file))
    return 0


def status(options: argparse.Namespace) -> int:
    from sweep.report.status import describe, read_status

    for line in describe(read_status(options.study)).splitlines():
        print_sentence(line)
    return 0


def doctor(options: argparse.Namespace) -> int:
    from sweep.cli.doctor import list_findings

    for topic, finding in list_findings(options.data_dir):
        print(f"{topic:<14} {finding}")
    return 0


def data(options: argparse.Namespace) -> int:
    from famba_core.config import ConfigError
    from famba_core.data.cifar100 import download_cifar100

    folder = options.data_dir or Path(os.environ.get("FAMBA_DATA") or "data")
    try:
        print(f"{options.dataset} is in {download_cifar100(folder)}")
    except ConfigError as error:
        raise UserError(error.at(folder)) from None
    return 0


def _prepare(
    options: argparse.Namespace, *, needs_data: bool = True
) -> tuple[SweepSpec, Plan, Path, StoredRows, Price]:
    """Return a grid, its plan, its study's folder, the rows stored there, and the plan's price.

    Print the profile if the user chose none, and what is to be known of the images.

    Args:
        needs_data: False plans with published sizes if the data set is not on this machine.

    The rows are read once: with thousands of trials that takes seconds.
    """
    from famba_core.data.datasets import size_dataset
    from sweep.cli.doctor import has_cifar100, has_gpu
    from sweep.grid.resources import FLAGS
    from sweep.grid.spec import default_profile, load_spec
    from sweep.plan.build import make_plan
    from sweep.plan.plan_file import study_folder
    from sweep.price.device import find_pool_device
    from sweep.price.estimate import price_plan
    from sweep.price.memory import keep_fitting
    from sweep.price.training_time import calibrate
    from sweep.run.runner import resume_columns
    from sweep.store.layout import StudyPaths
    from sweep.store.study import read_rows

    in_process = options.executor == "in-process"
    flags = {key: value for key in FLAGS.values() if (value := getattr(options, key)) is not None}
    if in_process and "trial_time_limit_h" in flags:
        raise UserError("--trial-time-limit needs --executor ray; in-process cannot stop a trial that hangs")
    if StudyPaths(options.grid).plan.exists():
        sentence = (
            "is a study's folder, not a grid; `famba-sweep status` and `report` take it, and its grid's file runs it"
        )
        raise UserError(sentence, options.grid)
    spec = load_spec(options.grid)
    profile = options.profile
    if profile is None:
        profile, reason = default_profile(spec, has_gpu=has_gpu(), has_cifar100=has_cifar100(options.data_dir))
        print_sentence(reason)
    plan = make_plan(spec, profile, data_dir=options.data_dir, flags=flags, needs_data=needs_data)
    if in_process and plan.pool.gpus_per_trial == "pack":
        raise UserError("gpus_per_trial: pack needs --executor ray; in-process runs one trial at a time")
    folder = study_folder(options.out, plan)
    stored = read_rows(folder, resume_columns(plan))
    device = find_pool_device(plan, address=options.address)
    plan = keep_fitting(plan, device, stored=set(stored.rows["trial_id"]))
    data = plan.trials[0].data  # all trials of a plan have the same data
    described = size_dataset(data)
    for note in described.notes_for(plan.trials[0].train.batch_size):  # all trials have the same
        print(note, flush=True)
    calibration = calibrate(options.out, device, data, described.train_images, plan.trials)
    return spec, plan, folder, stored, price_plan(plan, device, calibration)


def _check_images(spec: SweepSpec, plan: Plan, trials: Sequence[Trial]) -> None:
    """Decode the images that trials of a plan use: otherwise each trial would fail by itself. Raises UserError."""
    from famba_core.config import ConfigError
    from famba_core.data.datasets import check_dataset

    try:
        for size in sorted({trial.model.image_size for trial in trials}):
            seeds = {trial.train.seed for trial in trials if trial.model.image_size == size}
            check_dataset(plan.trials[0].data, size, sorted(seeds))
    except ConfigError as error:
        raise UserError(error.at(spec.file, f"profiles.{plan.profile}")) from error


def _print_report(report: Report, summary: str) -> None:
    """Print a run's table and, as its last lines, what it has found."""
    from famba_core.config import ConfigError
    from famba_core.data.datasets import size_dataset
    from sweep.report.finding import describe_finding
    from sweep.report.table_text import MISSING

    content, plan = report.content, report.content.data.plan
    shown = [column for column in content.columns if set(column.cells) - {MISSING}]
    print()
    print_table(
        [Heading(column.short, column.numeric, column.rank) for column in shown],
        zip(*(column.cells for column in shown), strict=True),
    )
    print()
    print_sentence(content.caption)
    print()
    print_sentence(summary)
    print(f"report: {_relative(report.index)}")
    print_sentence(f"{len(report.files) - 1} figures and tables are beside it: SVG, PNG, Markdown, LaTeX, CSV")
    try:
        test_images: int | None = size_dataset(plan.trials[0].data).test_images
    except ConfigError:  # images that are no longer here
        test_images = None
    print()
    for sentence in describe_finding(content.table, plan.objectives, test_images):
        print_sentence(sentence)


def _make_executor(options: argparse.Namespace, folder: Path, resources: ResourceRequest) -> Executor:
    from sweep.worker.job import run_job, warm_up

    if options.executor == "in-process":
        from sweep.executors.local import LocalExecutor

        return LocalExecutor(folder, resources, run=run_job)
    from sweep.executors.ray_tune.executor import RayExecutor

    return RayExecutor(folder, resources, run=run_job, warm_up=warm_up, address=options.address)


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
