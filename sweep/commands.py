"""What each command of `famba-sweep` does. Heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.errors import Problem, UserError

if TYPE_CHECKING:
    from sweep.executor import Executor
    from sweep.plan import Plan, TrialPlan
    from sweep.price import Price
    from sweep.spec import SweepSpec

ASK_ABOVE_DEVICE_HOURS = 1.0
REPORT_ONLY = {  # columns that a terminal is too narrow for
    "Top-1 (%) EMA",
    "Top-5 (%) last",
    "Top-5 (%) paper",
    "Training time paper",
    "Peak memory (MiB) paper",
}
FILE_WIDTH = 160  # characters of a table that is not printed on a terminal


def run(options: argparse.Namespace) -> int:
    if options.address and options.executor == "in-process":
        raise UserError("--address is for --executor ray; in-process stays in this process")
    plan = _planned(options)
    folder = options.out.resolve() / f"{plan.study}-{plan.profile}"

    from sweep.live import Screen
    from sweep.runner import run_plan, untrained

    priced = _priced(plan)
    missing = untrained(plan, folder, limit=options.limit, retry_failed=options.retry_failed)
    if missing and not options.yes:
        _refuse_long(priced, [trial.trial_id for trial in missing])
    if missing and not plan.trials[0].gpus_per_trial:
        from famba_core.scan.native import library

        library()  # built once here, with its notice, rather than by every worker at the same time
    weights = {trial_id: trial.device_hours for trial_id, trial in priced.trials.items()}
    summary = run_plan(
        plan,
        folder,
        partial(_executor, options),
        screen=Screen(weights),
        limit=options.limit,
        retry_failed=options.retry_failed,
    )
    if summary.interrupted:
        return summary.exit_code
    from sweep.report import write_report

    written = write_report(folder)
    shown = [column for column in written.columns if column.full_heading not in REPORT_ONLY]
    print()
    _print_table(
        [(column.full_heading, column.numeric) for column in shown],
        zip(*(column.cells for column in shown), strict=True),
    )
    print(f"{written.caption}\n\n{summary.sentence}\nreport: {_relative(written.index)}")
    print(f"        {len(written.files) - 1} figures and tables beside it: SVG, PNG, Markdown, LaTeX, CSV")
    return summary.exit_code


def plan(options: argparse.Namespace) -> int:
    from sweep.live import clock
    from sweep.price import plan_table

    plan = _planned(options)
    priced = _priced(plan)
    rows = plan_table(plan, priced).to_dict("records")[: options.limit]
    print(f"{plan.study}, profile {plan.profile}: {len(rows)} of {len(plan.trials)} trials")
    words = [(heading, False) for heading in ("trial", "cases", "tokens removed by layer")]
    _print_table(
        [*words, *((heading, True) for heading in ("removed", "tokens", "FLOPs", "memory", "time"))],
        (
            (row["trial"], row["cases"], row["schedule"], str(row["reduced_tokens"]), str(row["tokens_per_image"]),
             format(row["flops_ratio"], ".3f"), format(row["memory_ratio"], ".3f"), clock(3600 * row["device_hours"]))
            for row in rows
        ),
    )  # fmt: skip
    print("tokens: seen by the mixers of all layers, per image. FLOPs, memory: relative to no fusion, estimated.")
    total = clock(3600 * sum(row["device_hours"] for row in rows))
    print(f"time: estimated, {total} (h:mm:ss) of one {_device_word(priced)} for these {len(rows)} trials")
    shared = sum(len(row["cases"].split("; ")) > 1 for row in rows)
    if shared:
        print(f"{shared} trials stand for several cases of the same schedule, which run once")
    return 0


def report(options: argparse.Namespace) -> int:
    from sweep.report import write_report

    for file in write_report(options.study).files:
        print(_relative(file))
    return 0


def status(options: argparse.Namespace) -> int:
    from sweep.status import describe, study_status

    print(describe(study_status(options.study)))
    return 0


def doctor(options: argparse.Namespace) -> int:
    from sweep.doctor import findings

    for topic, finding in findings(options.data_dir):
        print(f"{topic:<14} {finding}")
    return 0


def data(options: argparse.Namespace) -> int:
    from famba_core.config import ConfigError
    from famba_core.data.download import download_cifar100

    folder = options.data_dir or Path(os.environ.get("FAMBA_DATA") or "data")
    try:
        print(f"{options.dataset} is in {download_cifar100(folder)}")
    except ConfigError as error:
        raise UserError(Problem(str(folder), key, sentence) for key, sentence in error.problems) from None
    return 0


def _planned(options: argparse.Namespace) -> Plan:
    """The plan of the grid; says which profile was taken where none was asked for."""
    from sweep.plan import make_plan
    from sweep.spec import load_spec

    spec = load_spec(options.grid)
    return make_plan(spec, options.profile or _chosen_profile(spec, options.data_dir), data_dir=options.data_dir)


def _chosen_profile(spec: SweepSpec, data_dir: str | None) -> str:
    from sweep.doctor import has_cifar100, has_gpu
    from sweep.spec import default_profile

    name, reason = default_profile(spec, has_gpu=has_gpu(), has_cifar100=has_cifar100(data_dir))
    print(reason, flush=True)
    return name


def _priced(plan: Plan) -> Price:
    from sweep.price import price

    return price(plan, "gpu" if plan.trials[0].gpus_per_trial else "cpu")


def _device_word(priced: Price) -> str:
    return "A100" if priced.device == "gpu" else "CPU thread"


def _refuse_long(priced: Price, missing: Sequence[str]) -> None:
    """Raise UserError, with the estimate, for a run that is long enough to be meant."""
    hours = sum(priced.trials[trial_id].device_hours for trial_id in missing)
    if hours > ASK_ABOVE_DEVICE_HOURS:
        raise UserError(
            f"{len(missing)} trials take about {hours:.1f} hours of one {_device_word(priced)}: say --yes to start "
            "them, --limit N for fewer, or choose another --profile"
        )


def _executor(options: argparse.Namespace, folder: Path, trials: Sequence[TrialPlan]) -> Executor:
    # imported where there is work: each takes seconds
    if options.executor == "in-process":
        from sweep.in_process import InProcessExecutor

        return InProcessExecutor(folder, trials)
    from sweep.driver import RayExecutor

    return RayExecutor(folder, trials, address=options.address)


def _print_table(headings: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under (heading, is a number), as wide as the terminal or, if that is too narrow, as they need."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    rows = list(rows)
    for i, (heading, numeric) in enumerate(headings):
        unbroken = [*heading.split(), *(row[i] for row in rows if numeric)]
        longest = max(map(len, unbroken))
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold", min_width=longest)
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)
    with console.capture() as text:  # the console itself would end the program where the reader has gone
        console.print(table, crop=False)
    print(text.get(), end="")


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
