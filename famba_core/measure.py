"""Memory of a training step on the CPU, counted tensor by tensor."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable
from itertools import accumulate
from operator import itemgetter

from torch import Tensor
from torch.profiler import ProfilerActivity, profile


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
