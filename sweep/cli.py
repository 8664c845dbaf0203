"""`famba-sweep`: run a grid, show its plan, redraw its report, ask how it stands."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.errors import Problem, UserError

if TYPE_CHECKING:
    from sweep.plan import Plan
    from sweep.price import Price
    from sweep.spec import SweepSpec

COMMANDS = ("run", "plan", "report", "status", "doctor", "data")
ASK_ABOVE_DEVICE_HOURS = 1.0
HELP = """\
Sweeps of Vision Mamba models with token fusion: every configuration of a grid is trained, stored as Parquet, and
drawn as the paper's tables and the accuracy-efficiency frontier.

  famba-sweep GRID                  train what is missing of a grid, then write its report
  famba-sweep plan GRID             show every trial, its schedule and price; train nothing
  famba-sweep report STUDY          write the report of a study's folder again
  famba-sweep status STUDY          what is done, running, failed
  famba-sweep doctor                what this machine has
  famba-sweep data cifar100         fetch a data set

Each command has its own --help, `famba-sweep run --help` for the first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `famba-sweep`; returns the exit code: 0, 1 if trials failed, 2 for wrong input, 130 for Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(HELP)
        return 0 if given else 2
    options = parser().parse_args(given if given[0] in COMMANDS else ["run", *given])
    try:
        code: int = options.function(options)
        return code
    except UserError as error:
        for problem in error.problems:
            print(f"famba-sweep: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nfamba-sweep: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    result = argparse.ArgumentParser(prog="famba-sweep")
    commands = result.add_subparsers(required=True)

    run = commands.add_parser("run", help="train what is missing of a grid, then write its report")
    _add_grid(run)
    run.add_argument("--out", type=Path, default=Path("results"), metavar="DIR",
                     help="holds a folder for each study and profile (default: results)")
    run.add_argument("--executor", choices=("ray", "in-process"), default="ray",
                     help="in-process trains one trial after another in this process, without Ray (default: ray)")
    run.add_argument("--address", help="address of a running Ray cluster (default: this machine alone)")
    run.add_argument("--retry-failed", action="store_true", help="train trials again that are stored as failed")
    run.add_argument("--yes", action="store_true",
                     help=f"do not ask before a run of more than {ASK_ABOVE_DEVICE_HOURS:g} device-hour")
    run.set_defaults(function=_run)

    plan = commands.add_parser("plan", help="show every trial, its schedule and price; train nothing")
    _add_grid(plan)
    plan.set_defaults(function=_plan)

    report = commands.add_parser("report", help="write the report of a study's folder again")
    report.add_argument("study", type=Path, help="a study's folder, such as results/starting_layer-laptop")
    report.set_defaults(function=_report)

    status = commands.add_parser("status", help="what is done, running, failed")
    status.add_argument("study", type=Path, help="a study's folder, such as results/starting_layer-laptop")
    status.set_defaults(function=_status)

    doctor = commands.add_parser("doctor", help="what this machine has: devices, scan backends, data sets, versions")
    doctor.add_argument("--data-dir", metavar="DIR", help="folder that holds cifar100/")
    doctor.set_defaults(function=_doctor)

    data = commands.add_parser("data", help="fetch a data set")
    data.add_argument("dataset", choices=("cifar100",))
    data.add_argument("--data-dir", type=Path, metavar="DIR", help="where to put it (default: FAMBA_DATA, or data)")
    data.set_defaults(function=_data)
    return result


def _add_grid(command: argparse.ArgumentParser) -> None:
    command.add_argument("grid", type=Path, help="a YAML file, such as grids/starting_layer.yaml")
    command.add_argument("--profile", help="one of the grid's (default: paper with a GPU and CIFAR-100, else laptop)")
    command.add_argument("--limit", type=_positive, metavar="N", help="only the first N trials")
    command.add_argument("--data-dir", metavar="DIR", help="folder that holds cifar100/, or the image folder")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    if options.address and options.executor == "in-process":
        raise UserError("--address is for --executor ray; in-process stays in this process")
    plan = _planned(options)
    folder = options.out.resolve() / f"{plan.study}-{plan.profile}"

    from sweep.live import Screen
    from sweep.runner import run_plan, untrained

    missing = untrained(plan, folder, limit=options.limit, retry_failed=options.retry_failed)
    if missing and not options.yes:
        _ask(_priced(plan), missing)
    weights = {trial.trial_id: float(trial.tokens_per_image * trial.train.epochs) for trial in plan.trials}
    summary = run_plan(
        plan, folder, _executor(options), screen=Screen(weights), limit=options.limit, retry_failed=options.retry_failed
    )
    if summary.interrupted:
        return summary.exit_code
    from sweep.report import write_report

    paths = write_report(folder)
    print(f"\n{paths.table.read_text()}\n{summary.sentence}\nreport: {_relative(paths.index)}")
    for file in paths.files:
        if file.suffix != ".html":
            print(f"        {_relative(file)}")
    return summary.exit_code


def _plan(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from sweep.live import clock
    from sweep.price import plan_table

    plan = _planned(options)
    priced = _priced(plan)
    rows = plan_table(plan, priced).head(options.limit or len(plan.trials))
    table = Table(title=f"{plan.study}, profile {plan.profile}: {len(rows)} of {len(plan.trials)} trials")
    for heading in ("trial", "cases", "tokens removed by layer", "removed", "tokens", "FLOPs", "memory", "time"):
        numeric = heading in ("removed", "tokens", "FLOPs", "memory", "time")
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows.itertuples():
        table.add_row(
            row.trial, row.cases, row.schedule, str(row.reduced_tokens), str(row.tokens_per_image),
            f"{row.flops_ratio:.3f}", f"{row.memory_ratio:.3f}", clock(3600 * row.device_hours),
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)
    print("tokens: seen by the mixers of all layers, per image. FLOPs, memory: relative to no fusion, estimated.")
    total = clock(3600 * rows["device_hours"].sum())
    print(f"time: estimated, {total} (h:mm:ss) of one {_device_word(priced)} for these {len(rows)} trials")
    shared = sum(len(row.cases.split("; ")) > 1 for row in rows.itertuples())
    if shared:
        print(f"{shared} trials stand for several cases of the same schedule, which run once")
    return 0


def _report(options: argparse.Namespace) -> int:
    from sweep.report import write_report

    for file in write_report(options.study).files:
        print(_relative(file))
    return 0


def _status(options: argparse.Namespace) -> int:
    from sweep.status import print_status, study_status

    print_status(study_status(options.study))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from sweep.doctor import findings

    for topic, finding in findings(options.data_dir):
        print(f"{topic:<14} {finding}")
    return 0


def _data(options: argparse.Namespace) -> int:
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


def _ask(priced: Price, missing: Sequence[str]) -> None:
    """Get leave for a long run. Raises UserError where there is nobody to ask, or the answer is not yes."""
    hours = sum(priced.trials[trial_id].device_hours for trial_id in missing)
    if hours <= ASK_ABOVE_DEVICE_HOURS:
        return
    estimate = f"{len(missing)} trials take about {hours:.0f} hours of one {_device_word(priced)}"
    if not sys.stdin.isatty():
        raise UserError(f"{estimate}; say --yes to start them, --limit N for fewer, or choose another --profile")
    if input(f"{estimate}. Start? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("not started")


def _executor(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    if options.executor == "in-process":
        from sweep.in_process import InProcessExecutor

        return InProcessExecutor

    def ray(folder, trials):  # type: ignore[no-untyped-def]
        from sweep.driver import RayExecutor  # imports Ray, which takes seconds, only where there is work

        return RayExecutor(folder, trials, address=options.address)

    return ray


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.exit(main())
