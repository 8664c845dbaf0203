"""Contenders timed in turns, so that what the machine does meanwhile meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch

from famba_core.config import ConfigError
from famba_core.cost.measure import StepTime
from famba_core.device import synchronize

Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How often each contender has its turn."""

    warmup: int = 2  # calls that are not timed
    least: int = 5
    most: int = 50
    budget_s: float = 20.0  # no further round once all contenders together took longer
    calls: int = 1  # timed calls in a turn


@dataclass(kw_only=True)
class Contender:
    """Something to call, and what came of it."""

    name: str
    build: Callable[[], Call]  # what may fail or take long: imports, memory, compilation
    prepare: Callable[[], None] = lambda: None  # process-wide settings, set again before each turn
    call: Call | None = None
    times_ms: list[float] = field(default_factory=list)
    skipped: str | None = None
    failed: str | None = None

    @property
    def time(self) -> StepTime | None:
        """Median and quartiles, or None where nothing was timed."""
        if not self.times_ms:
            return None
        q25, median, q75 = np.quantile(self.times_ms, (0.25, 0.5, 0.75)).tolist()
        return StepTime(median_ms=median, q25_ms=q25, q75_ms=q75, n=len(self.times_ms))


def interleave(contenders: Sequence[Contender], *, device: torch.device, rounds: Rounds) -> Iterator[str]:
    """Build and warm up every contender, then time them in rounds; yields what is being done, for a progress line.

    One that fails is marked and left out of what follows. Times of an interrupted run stay with the contenders.
    """
    for contender in contenders:
        if contender.skipped:
            continue
        yield f"warming up {contender.name}"
        with _failures_of(contender):
            contender.prepare()
            contender.call = contender.build()
            for _ in range(rounds.warmup):
                contender.call()
            synchronize(device)
    start = time.perf_counter()
    for done in range(rounds.most):
        alive = [contender for contender in contenders if contender.call is not None]
        if not alive or (done >= rounds.least and time.perf_counter() - start > rounds.budget_s):
            break
        # each round starts with another one, so that none always follows the same neighbour
        for contender in _rotated(alive, done):
            yield f"round {done + 1}: {contender.name}"
            with _failures_of(contender):
                contender.prepare()
                assert contender.call is not None
                contender.times_ms += _turn(contender.call, device, rounds.calls)


def release(contenders: Sequence[Contender], device: torch.device) -> None:
    """Forget what the contenders built, so that the memory is free for the next group."""
    for contender in contenders:
        contender.call = None
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _rotated(contenders: list[Contender], by: int) -> list[Contender]:
    by %= len(contenders)
    return contenders[by:] + contenders[:by]


def _turn(call: Call, device: torch.device, calls: int) -> list[float]:
    """Milliseconds of each call. On CUDA between events on the stream, after one call that is not timed, so that
    the device does not wait for the host as it would at the start of a queue."""
    if device.type != "cuda":
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - start))
        return times
    call()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) for before, after in pairwise(events)]


class _failures_of:
    """Marks the contender whose turn raised, and lets the others go on."""

    def __init__(self, contender: Contender):
        self.contender = contender

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False  # Ctrl-C is not a failure
        self.contender.call = None
        if isinstance(error, ConfigError):
            self.contender.skipped = "; ".join(sentence for _, sentence in error.problems)
        else:
            self.contender.failed = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return True
