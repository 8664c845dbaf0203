"""Calls that are timed in turn, so that a disturbance of the machine affects all of them alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from famba_core.config import ConfigError
from famba_core.cost.measure import StepTime, summarize, times_ms
from famba_core.device import synchronize

Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Number of rounds, and of calls in each turn."""

    warmup: int = 2  # calls that are not timed
    least: int = 5
    most: int = 50
    budget_s: float = 20.0  # no further round starts after it
    calls: int = 1  # timed calls in a turn


@dataclass(kw_only=True)
class TimedCall:
    """A call to time, and its times."""

    name: str
    build: Callable[[dict[str, Any]], Call]  # makes the call; can fail or take long, and can add to `facts`
    prepare: Callable[[], None] = lambda: None  # process-wide settings, set again before each turn
    skipped: str | None = None  # why it is not timed
    failed: str | None = None
    call: Call | None = None  # None until it is built, and after a failure
    times_ms: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # other results, such as the memory that it needs

    @property
    def time(self) -> StepTime | None:
        """Median and quartiles, or None if nothing was timed."""
        return summarize(self.times_ms) if self.times_ms else None


def interleave(calls: Sequence[TimedCall], *, device: torch.device, rounds: Rounds) -> Iterator[str]:
    """Build and warm up every call, then time them in rounds; yields the current action, for a progress line.

    A call that fails is marked and left out from then on. If the run is interrupted, the times until then remain.
    """
    for timed in calls:
        if timed.skipped:
            continue
        yield f"warming up {timed.name}"
        with _record_failure(timed):
            timed.prepare()
            timed.call = timed.build(timed.facts)
            for _ in range(rounds.warmup):
                timed.call()
            synchronize(device)
    start = time.perf_counter()
    for number in range(rounds.most):
        alive = [timed for timed in calls if timed.call is not None]
        if not alive or (number >= rounds.least and time.perf_counter() - start > rounds.budget_s):
            break
        first = number % len(alive)  # changes, so that no call always follows the same one
        for timed in alive[first:] + alive[:first]:
            yield f"round {number + 1}: {timed.name}"
            with _record_failure(timed):
                timed.prepare()
                assert timed.call is not None
                timed.times_ms += _turn(timed.call, device, rounds.calls)


def release(calls: Sequence[TimedCall], device: torch.device) -> None:
    """Free the memory of the calls for the next group."""
    for timed in calls:
        timed.call = None
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _turn(call: Call, device: torch.device, count: int) -> list[float]:
    """Return the milliseconds of `count` calls."""
    return times_ms(call, device, count, lead=1 if device.type == "cuda" else 0)


@contextlib.contextmanager
def _record_failure(timed: TimedCall) -> Iterator[None]:
    """Mark the call if the block raises an Exception, so that the others go on."""
    try:
        yield
    except ConfigError as error:
        timed.call, timed.skipped = None, "; ".join(problem.sentence for problem in error.problems)
    except Exception as error:
        timed.call, timed.failed = None, f"{type(error).__name__}: {error}".splitlines()[0][:300]
