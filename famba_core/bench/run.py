"""A run of the benchmark: each section is printed and stored as soon as it is measured."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from famba_core.bench.machine import choose_auto, mambapy_registered
from famba_core.bench.plot import write_plot
from famba_core.bench.rows import BenchRow, write_parquet
from famba_core.bench.sections import BATCH, DEPTH, RUNNERS, TOKENS
from famba_core.bench.session import Session, show_progress
from famba_core.bench.settings import Settings
from famba_core.bench.table import section_text
from famba_core.errors import ConfigError

PARQUET = "bench.parquet"


def run(settings: Settings) -> list[BenchRow]:
    """Measure the sections of `settings`, show their tables and write the files; return the rows.

    On Ctrl-C, the rows measured so far are shown and written first. Raises ConfigError for a device,
    precision or folder that cannot be used, before anything is measured.
    """
    if settings.out is not None:
        try:
            settings.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError.of("out", f"{settings.out} cannot be a folder: {error.strerror}") from None
    with mambapy_registered():
        session = Session(settings)
        print(heading(session))
        for section in settings.sections:
            before = len(session.rows)
            try:
                RUNNERS[section](session)
            finally:
                show_progress("")
                print(_tables(section, session.rows[before:], session.rows))
                if settings.out is not None:
                    write_files(session, settings.out)
        return session.rows


def heading(session: Session) -> str:
    """Return device, versions, missing backends and limits, a line each."""
    auto = choose_auto(session.device, session.model.sizes)
    lines = [f"{session.device_name}; {session.versions}", f"{session.model.backbone}; auto takes the backend {auto}"]
    lines += [f"not available: {name}: {reason}" for name, reason in session.backends.items() if reason]
    for precision in session.precisions:
        limits = session.limits(precision)
        lines.append(
            f"limits in {precision} ({limits.source}): {limits.matmul_flops_per_s / 1e12:.2f} TFLOP/s in matrix "
            f"products, {limits.vector_ops_per_s / 1e12:.3f} T instructions/s, {limits.exps_per_s / 1e12:.3f} T "
            f"exponentials/s, {limits.bytes_per_s / 1e9:.0f} GB/s"
        )
    return "\n".join((*lines, ""))


def write_files(session: Session, folder: Path) -> None:
    """Write the Parquet file and the plots. If one cannot be written, print the reason on stderr and go on."""
    try:
        write_parquet(session.rows, folder / PARQUET, {"heading": heading(session)})
        write_plot(session.rows, folder)
    except ImportError as error:
        print(f"famba-bench: not all files were written: {error.name} is not installed", file=sys.stderr)
    except OSError as error:
        print(f"famba-bench: {folder}: {error.strerror}", file=sys.stderr)


def _tables(section: str, new: Sequence[BenchRow], all_rows: Sequence[BenchRow]) -> str:
    """Return the tables of a section; that of the roofline includes all rows with a limit."""
    if section == "roofline":
        limited = [row for row in all_rows if row.backend == "auto" and row.limit_pct is not None]
        return section_text(section, [*limited, *(row for row in new if row.status != "measured")])
    names = (TOKENS, BATCH, DEPTH) if section == "growth" else (section,)
    texts = [section_text(name, [row for row in new if row.section == name]) for name in names]
    return "\n".join(text for text in texts if text)
