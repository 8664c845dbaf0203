"""`famba-bench`: how fast this machine trains Vision Mamba, with every backend and peer that is installed."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from famba_core.backbones import BACKBONES
from famba_core.bench.settings import DEFAULT_BATCH, DEFAULT_PRECISION, PRECISIONS, SECTIONS, Settings
from famba_core.errors import ConfigError
from famba_core.version import VERSION


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `famba-bench` and return the exit code.

    The code is 0, 1 if nothing could be measured, 2 for wrong input, or 130 for Ctrl-C and SIGTERM.
    """
    options = parser().parse_args(arguments)
    try:
        chosen: dict[str, Any] = vars(options)
        for key, value in chosen.items():
            if isinstance(value, list):
                chosen[key] = tuple(dict.fromkeys(value))  # without repetitions
        settings = Settings(**chosen)
        from famba_core.bench.run import run  # torch takes seconds to import

        with _sigterm_interrupts():
            rows = run(settings)
    except ConfigError as error:
        for problem in error.problems:
            print(f"famba-bench: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nfamba-bench: stopped; the tables above show the results so far", file=sys.stderr)
        return 130
    if options.out is not None:
        print(f"the results are in {options.out}")
    return 0 if any(row.status == "measured" for row in rows) else 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog="famba-bench",
        description="Time kernels, models and training steps in turns: on the backends of this project, and on "
        "mamba-ssm and mambapy if they are installed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="sections:\n" + "\n".join(f"  {name:<10}{text}" for name, text in SECTIONS.items()),
    )
    result.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    result.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: CUDA if available)")
    precisions = ", ".join(f"{' and '.join(default)} on {kind}" for kind, default in DEFAULT_PRECISION.items())
    result.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, help=f"one or more, timed in turns (default: {precisions})"
    )
    batches = ", ".join(f"{batch} on {kind}" for kind, batch in DEFAULT_BATCH.items())
    result.add_argument("--batch", type=int, metavar="N", help=f"images in a step (default: {batches})")
    result.add_argument("--backbone", choices=BACKBONES, default=Settings.backbone, help="default: %(default)s")
    result.add_argument(
        "--sections", nargs="+", choices=SECTIONS, metavar="SECTION", default=[*SECTIONS], help="default: all of them"
    )
    result.add_argument("--quick", action="store_true", help="few rounds and sizes, to check that everything runs")
    result.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")
    result.add_argument("--out", type=Path, metavar="DIR", help="write bench.parquet, bench.svg and bench.png there")
    return result


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C while the context lasts, so that the results so far are written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
