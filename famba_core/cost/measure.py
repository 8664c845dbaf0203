"""Time and memory of a training step, or of anything else that is called over and over."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from famba_core.device import synchronize
from famba_core.errors import reject

SETTLED = 0.04  # distance of the quartiles over the median, of a device that nothing disturbs
PATIENCE = 4


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """How long a call takes: median and quartiles over n timed calls."""

    median_ms: float
    q25_ms: float
    q75_ms: float
    n: int

    @property
    def is_disturbed(self) -> bool:
        """Whether the quartiles lie so far apart that something else must have been running."""
        return self.q75_ms - self.q25_ms > SETTLED * self.median_ms


def measure_step(
    step: Callable[[], object],
    *,
    device: torch.device,
    warmup: int = 3,
    min_steps: int = 5,
    max_steps: int = 1000,
    budget_s: float = 1.0,
) -> StepTime:
    """Time calls of `step` one after another, on a device that nothing else uses.

    After `warmup` calls, `min_steps` are timed, and then as many more as fit into `budget_s` seconds, `max_steps` in
    all; where the times scatter, up to PATIENCE times as long, so that the median outlasts a passing disturbance. On
    CUDA the times are those between events on the current stream, and the device is waited for only between lots of
    calls: what the host does meanwhile costs nothing while the device is busy, as in training.

    Raises ConfigError for fewer steps than one; whatever `step` raises comes through.
    """
    reject(
        ("warmup", warmup < 0, f"must be at least 0, not {warmup}"),
        ("min_steps", min_steps < 1, f"must be at least 1, not {min_steps}"),
        ("max_steps", max_steps < min_steps, f"must be at least min_steps ({min_steps}), not {max_steps}"),
    )
    for _ in range(warmup):
        step()
    times_ms = _times_ms(step, device, min_steps)
    left_ms = 1e3 * budget_s - sum(times_ms)
    more = max(0, min(max_steps - min_steps, int(left_ms / max(np.median(times_ms), 1e-6))))
    times_ms += _times_ms(step, device, more)
    lot = len(times_ms)
    while (result := _summary(times_ms)).is_disturbed and sum(times_ms) < PATIENCE * 1e3 * budget_s:
        if len(times_ms) >= max_steps:
            break
        times_ms += _times_ms(step, device, min(lot, max_steps - len(times_ms)))
    return result


def _summary(times_ms: list[float]) -> StepTime:
    q25, median, q75 = np.quantile(times_ms, (0.25, 0.5, 0.75)).tolist()
    return StepTime(median_ms=median, q25_ms=q25, q75_ms=q75, n=len(times_ms))


def _times_ms(step: Callable[[], object], device: torch.device, n: int) -> list[float]:
    """Milliseconds of each of n calls."""
    synchronize(device)
    if device.type != "cuda":
        marks = [time.perf_counter()]
        for _ in range(n):
            step()
            marks.append(time.perf_counter())
        return [1e3 * (end - start) for start, end in pairwise(marks)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(n + 1)]
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    synchronize(device)
    return [start.elapsed_time(end) for start, end in pairwise(events)]


def peak_tensor_bytes(step: Callable[[], object], resident: Iterable[Tensor]) -> int:
    """The most bytes that tensors hold at one moment of `step`, on the CPU.

    The process's resident memory would mostly be imported libraries, and keeps what was freed. Counted instead:
    `resident`, what is there before (weights, optimizer, averages), and every allocation and release of torch's
    allocator while `step` runs, temporaries inside operators included. It is the same number on every run.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own chatter, on stderr
    gc.collect()  # or what an earlier measurement left behind could be counted as released in this one
    before = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in resident}.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    changes = sorted(((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"), key=itemgetter(0))
    return before + max(accumulate((size for _, size in changes), initial=0))


def tensors_of(state: object) -> Iterable[Tensor]:
    """Every tensor in nested dicts, lists and tuples, such as a state dict."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors_of(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors_of(value)


def mib(size: float) -> float:
    """Bytes in MiB."""
    return size / 2**20
