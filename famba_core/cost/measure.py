"""Time and peak memory of a training step, or of any other repeated call."""

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
from famba_core.errors import Problem, raise_problems

SETTLED = 0.04  # interquartile range over median on an undisturbed device
PATIENCE = 4  # times the budget, at most


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Time of a call: median and quartiles over n timed calls."""

    median_ms: float
    q25_ms: float
    q75_ms: float
    n: int

    @property
    def is_disturbed(self) -> bool:
        """True if the quartiles are so far apart that something else must have been running."""
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
    """Time consecutive calls of `step`, on a device that nothing else uses.

    After `warmup` calls, `min_steps` calls are timed, then as many more as fit into `budget_s` seconds, `max_steps` in
    total. If the times scatter, timing goes on for up to PATIENCE times the budget, so that a short disturbance does
    not decide the median. On CUDA, the times are those between events on the current stream, and the host waits for
    the device only between batches of calls: as in training, the host's work is hidden while the device is busy.

    Raises ConfigError for fewer than one step, and passes on what `step` raises.
    """
    least = (("warmup", warmup, 0), ("min_steps", min_steps, 1), ("max_steps", max_steps, min_steps))
    raise_problems(
        Problem("", name, f"must be at least {bound}, not {value}") for name, value, bound in least if value < bound
    )
    for _ in range(warmup):
        step()
    measured = times_ms(step, device, min_steps)
    left_ms = 1e3 * budget_s - sum(measured)
    more = max(0, min(max_steps - min_steps, int(left_ms / max(np.median(measured), 1e-6))))
    measured += times_ms(step, device, more)
    count = len(measured)
    while (result := summarize(measured)).is_disturbed and sum(measured) < PATIENCE * 1e3 * budget_s:
        if len(measured) >= max_steps:
            break
        measured += times_ms(step, device, min(count, max_steps - len(measured)))
    return result


def summarize(times_ms: list[float]) -> StepTime:
    """Return median and quartiles of the times of calls."""
    q25, median, q75 = np.quantile(times_ms, (0.25, 0.5, 0.75)).tolist()
    return StepTime(median_ms=median, q25_ms=q25, q75_ms=q75, n=len(times_ms))


def times_ms(step: Callable[[], object], device: torch.device, n: int, *, lead: int = 0) -> list[float]:
    """Return the milliseconds of each of n calls.

    lead: calls before them that are not timed. With one of them, a CUDA device does not wait for the host at the start.
    """
    synchronize(device)
    for _ in range(lead):
        step()
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
    """Return the peak bytes of tensors during `step`, on the CPU.

    The resident memory of the process would not do: it is mostly imported libraries, and includes freed memory. The
    count starts with `resident`, the tensors from before (weights, optimizer, averages), and follows each allocation
    and release by torch's allocator while `step` runs, temporaries inside operators included. It is deterministic.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the profiler's messages on stderr
    gc.collect()  # so that tensors of an earlier measurement are not released during this one
    before = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in resident}.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    changes = sorted(((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"), key=itemgetter(0))
    peak: int = max(accumulate((size for _, size in changes), initial=0))
    return before + peak


def tensors_of(state: object) -> Iterable[Tensor]:
    """Yield every tensor in nested dicts, lists and tuples, such as a state dict."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors_of(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors_of(value)


def mib(size: float) -> float:
    """Convert bytes to MiB."""
    return size / 2**20
