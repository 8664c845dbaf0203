"""Faults are injected once by default; `--tries 20 --fault-table FILE` repeats them and writes what they cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

HEADER = "| fault | tries | finished results lost | finished trials repeated |\n| --- | --- | --- | --- |\n"


@dataclass
class Tally:
    """What one kind of fault has cost so far."""

    tries: int = 0
    lost: int = 0
    repeated: int = 0


TALLIES = pytest.StashKey[dict[str, Tally]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tries", type=int, default=1, metavar="N", help="inject each fault N times (default: 1)")
    parser.addoption("--fault-table", type=Path, metavar="FILE", help="write the faults' tries and costs as Markdown")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TALLIES] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "nth_try" in metafunc.fixturenames:
        metafunc.parametrize("nth_try", range(metafunc.config.getoption("--tries")))


def pytest_sessionfinish(session: pytest.Session) -> None:
    table, tallies = session.config.getoption("--fault-table"), session.config.stash[TALLIES]
    if table and tallies:
        lines = (f"| {fault} | {t.tries} | {t.lost} | {t.repeated} |\n" for fault, t in tallies.items())
        table.write_text(HEADER + "".join(lines), encoding="utf-8")


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Counts one try of a fault: finished results that were lost, and finished trials that ran again."""

    def count(fault: str, *, lost: int, repeated: int) -> None:
        tally = request.config.stash[TALLIES].setdefault(fault, Tally())
        tally.tries += 1
        tally.lost += lost
        tally.repeated += repeated

    return count
