"""`famba-sweep`: parses the command line, runs a command, returns its exit code."""

from __future__ import annotations

import argparse
import io
import math
import os
import signal
import sys
import threading
import typing
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from famba_core.errors import suggest, unwrap_optional
from famba_core.version import VERSION
from sweep.cli import commands
from sweep.errors import UserError
from sweep.grid.resources import FLAGS, Pool

COMMANDS = ("run", "init", "plan", "report", "status", "compact", "doctor", "data")
MOST_DIGITS = 19  # a number with fewer digits fits in 64 bits
HELP = """\
Sweeps of Vision Mamba models with token fusion: every configuration of a grid is trained, stored as Parquet, and
drawn as the paper's tables and the accuracy-efficiency frontier.

  famba-sweep GRID                  train the missing trials of a grid, then write its report
  famba-sweep init FOLDER           look at a folder of images, write a first grid for it, say its price
  famba-sweep plan GRID             show every trial, its schedule and price; train nothing
  famba-sweep report STUDY          write the report of a study's folder again
  famba-sweep status STUDY          show which trials are done, running, failed
  famba-sweep compact STUDY         merge a study's many files into few
  famba-sweep doctor                show devices, scan backends, data sets and versions of this machine
  famba-sweep data cifar100         download a data set
  famba-sweep --version             show the version

Each command has its own --help, `famba-sweep run --help` for the first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `famba-sweep` and return the exit code.

    It is 0; 1 if trials failed; 2 for wrong input or a folder that cannot be written; 3 if a limit ended the run early;
    130 for Ctrl-C and SIGTERM; 141 if the reader of the output has gone.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(HELP)
        return 0 if given else 2
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a run handles SIGTERM itself
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character that the terminal lacks must not end a run
    try:
        if given[0] not in (*COMMANDS, "--version"):
            _check_grid(given[0])
            given = ["run", *given]
        options = parser().parse_args(given)
        code: int = options.function(options)
        sys.stdout.flush()
        return code
    except UserError as error:
        for problem in error.problems:
            print(f"famba-sweep: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nfamba-sweep: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _check_grid(word: str) -> None:
    """Raise UserError if the first word is probably a misspelt command. `run` checks options and grid files."""
    if not word.startswith("-") and Path(word).suffix not in (".yaml", ".yml") and not Path(word).exists():
        raise UserError(f"{word!r} is neither a command nor a grid file; {suggest(word, COMMANDS)}")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    result = argparse.ArgumentParser(prog="famba-sweep")
    result.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    choices = result.add_subparsers(required=True)

    run = choices.add_parser("run")
    _add_grid(run)
    run.add_argument(
        "--executor",
        choices=("ray", "in-process"),
        default="ray",
        help="in-process trains one trial after another in this process, without Ray (default: ray)",
    )
    run.add_argument("--retry-failed", action="store_true", help="train trials again that are stored as failed")
    run.add_argument(
        "--no-cache", action="store_true", help="train even if another study in DIR already has this result"
    )
    run.add_argument(
        "--yes",
        action="store_true",
        help=f"start even if the run takes more than {commands.ASK_ABOVE_DEVICE_HOURS:g} device-hour",
    )
    run.set_defaults(function=commands.run)

    plan = choices.add_parser("plan")
    _add_grid(plan)
    plan.set_defaults(function=commands.plan, executor="ray")

    init = choices.add_parser("init")
    init.add_argument("folder", type=_folder, help="images in train/<class>/ and val/<class>/ (or test/<class>/)")
    init.add_argument("grid", type=_folder, nargs="?", help="file to write (default: the folder's name, .yaml, here)")
    init.add_argument("--force", action="store_true", help="replace the file if it exists")
    init.set_defaults(function=_init)

    for function in (commands.report, commands.status, commands.compact):
        command = choices.add_parser(function.__name__)
        command.add_argument("study", type=_folder, help="a study's folder, such as results/starting_layer-laptop")
        command.set_defaults(function=function)

    doctor = choices.add_parser("doctor")
    doctor.add_argument("--data-dir", type=_given, metavar="DIR", help="folder that holds cifar100/")
    doctor.set_defaults(function=commands.doctor)

    data = choices.add_parser("data")
    data.add_argument("dataset", choices=("cifar100",))
    data.add_argument("--data-dir", type=_folder, metavar="DIR", help="where to put it (default: FAMBA_DATA, or data)")
    data.set_defaults(function=commands.data)
    return result


def _init(options: argparse.Namespace) -> int:
    from sweep.cli.init import print_next, write_first_grid
    from sweep.grid.first_grid import PROFILE

    grid = write_first_grid(options.folder, options.grid, force=options.force)
    price = commands.price_sentences(parser().parse_args(["plan", f"--profile={PROFILE}", "--", str(grid)]))
    print_next(grid, list(price))  # pricing may print notes, which come before
    return 0


def _add_grid(command: argparse.ArgumentParser) -> None:
    command.add_argument("grid", type=Path, help="a YAML file, such as grids/starting_layer.yaml; - for standard input")
    command.add_argument(
        "--profile",
        type=_given,
        help="one of the grid's profiles (default: paper with a GPU and CIFAR-100, else laptop)",
    )
    command.add_argument(
        "--limit",
        type=_positive,
        metavar="N",
        help="only the first N trials; of a search, the baselines and N newly completed trials",
    )
    command.add_argument(
        "--data-dir", type=_given, metavar="DIR", help="folder that holds cifar100/, or the image folder"
    )
    command.add_argument(
        "--out",
        type=_folder,
        default=Path("results"),
        metavar="DIR",
        help="folder with a subfolder for each study and profile (default: results)",
    )
    pool = command.add_argument_group("resources", "each overrides the grid's pool, which overrides the profile")
    pool.add_argument("--address", type=_given, help="address of a running Ray cluster (default: this machine alone)")
    types = typing.get_type_hints(Pool)
    flags = {name: flag for flag, name in FLAGS.items()}
    for entry in fields(Pool):
        if flag := flags.get(entry.name):
            hint = unwrap_optional(types[entry.name])
            pool.add_argument(
                flag,
                type=_PARSERS.get(hint, _number_or_pack),
                metavar=entry.metadata["metavar"],
                dest=entry.name,
                help=entry.metadata["doc"],
            )


def _given(text: str) -> str:
    if not text:  # a script's unset variable, which would otherwise mean the default
        raise argparse.ArgumentTypeError("it is empty")
    return text


def _folder(text: str) -> Path:
    return Path(os.path.expanduser(_given(text)))  # for --out=~/results, which a shell leaves as it is


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < MOST_DIGITS and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _number(text: str) -> float:
    try:
        number = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return number


def _number_or_pack(text: str) -> float | str:
    return text if text == "pack" else _number(text)


_PARSERS: dict[object, Callable[[str], object]] = {str: str, int: _positive, float: _number}  # of options, by type
