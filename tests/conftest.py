"""Faults are injected once by default; `--tries 20 --fault-table FILE` repeats them and writes what they cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # a busy machine is not a failure
settings.load_profile("untimed")

HEADER = "| fault | tries | finished results lost | finished trials repeated |\n| --- | --- | --- | --- |\n"


@dataclass
class Tally:
    """What one kind of fault has cost so far."""

    tries: int = 0
    lost: int = 0
    repeated: int = 0

    def add(self, tries: int, lost: int, repeated: int) -> None:
        self.tries += tries
        self.lost += lost
        self.repeated += repeated


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
    if hasattr(session.config, "workeroutput"):  # one of several processes, which hands on what it has plural
        session.config.workeroutput["tallies"] = {fault: astuple(tally) for fault, tally in tallies.items()}
    elif table and tallies:
        lines = (f"| {fault} | {t.tries} | {t.lost} | {t.repeated} |\n" for fault, t in tallies.items())
        table.write_text(HEADER + "".join(lines), encoding="utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    for fault, counts in getattr(node, "workeroutput", {}).get("tallies", {}).items():  # none of one that crashed
        node.config.stash[TALLIES].setdefault(fault, Tally()).add(*counts)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Counts one try of a fault: finished results that were lost, and finished trials that ran again."""

    def count(fault: str, *, lost: int, repeated: int) -> None:
        request.config.stash[TALLIES].setdefault(fault, Tally()).add(1, lost, repeated)

    return count
