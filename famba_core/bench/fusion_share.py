"""The time of matching and merging: a fusing layer compared with one that gets the shorter sequence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from famba_core.bench.timing import Call, Rounds, TimedCall, interleave
from famba_core.bench.workloads import Workload
from famba_core.config import FusionConfig
from famba_core.fusion.matching import shares
from famba_core.fusion.schedule import resolve, tokens_per_layer
from famba_core.models.vim.constants import NORM_EPS
from famba_core.ops.kernels import Kernels
from famba_core.ops.registry import choose
from famba_core.training.cuda_graph import wrap_in_graph

ROUNDS = Rounds(warmup=5, least=5, most=20, budget_s=3.0)  # the warm-up includes the capture of a graph


def fusion_ms(load: Workload, fusion: FusionConfig) -> float | None:
    """Return the milliseconds of fusion in one step, forward and backward, all layers; None without own kernels.

    Two passes over the sequence lengths of all fusing layers are timed in turns: one matches, and its norm and skip
    connection merge; the norm of the other reads the merged sequence. Everything else in a layer is the same.
    """
    probe = torch.empty(1, 1, load.model.sizes.width, device=load.device)
    kernels = choose(load.backend, probe, state_size=load.model.sizes.state_size).kernels
    if kernels is None:
        return None
    schedule = resolve(fusion, load.model.token_grid).schedule
    layers = [
        _Layer(load, kernels, fusion, length, r)
        for length, r in zip(tokens_per_layer(schedule, load.model.num_tokens), schedule, strict=True)
        if r > 0
    ]

    def build(run_layer: Callable[[_Layer], Tensor], facts: dict[str, Any]) -> Call:
        def run(out: Tensor) -> Tensor:
            for layer in layers:
                out = run_layer(layer)
            return out

        # a graph, because the device must not wait for the host between small kernels, as in the step itself
        return functools.partial(wrap_in_graph(run, load.device, name="matching and merging"), probe)

    fused = TimedCall(name="fused", build=functools.partial(build, _Layer.run_fused))
    plain = TimedCall(name="plain", build=functools.partial(build, _Layer.run_plain))
    for _ in interleave((fused, plain), device=load.device, rounds=ROUNDS):
        pass
    if fused.time is None or plain.time is None:
        return None
    return max(0.0, fused.time.median_ms - plain.time.median_ms)


class _Layer:
    """Random tensors of one fusing layer."""

    def __init__(self, load: Workload, kernels: Kernels, fusion: FusionConfig, length: int, r: int):
        device, width = load.device, load.model.sizes.width
        self.kernels, self.fusion, self.r, self.dtype = kernels, fusion, r, load.dtype
        self.before = torch.randn(load.batch, length + r, width, device=device)
        self.after = torch.randn(load.batch, length, width, device=device)
        self.weight = torch.ones(width, device=device)
        self.class_index = torch.zeros(load.batch, dtype=torch.long, device=device)
        self.sizes = torch.ones(load.batch, length + r, device=device)
        self.grad_hidden = self.after.to(load.dtype)

    def run_fused(self) -> Tensor:
        """Match the tokens, merge them, and compute the gradient of the norm through the merge."""
        kernels, weight, residual = self.kernels, self.weight, self.before
        metric = kernels.rms_norm(residual, weight, NORM_EPS, None, torch.float32)
        matched = kernels.match(metric, self.r, self.class_index, self.fusion.order)
        merge, _ = shares(matched, self.sizes, self.fusion.weighting)
        for _ in range(2):  # forward, and again in backward
            kernels.rms_norm(residual, weight, NORM_EPS, merge, self.dtype)
        kernels.merge(residual, merge)
        return kernels.rms_norm_backward(residual, weight, NORM_EPS, merge, self.grad_hidden, self.after)[0]

    def run_plain(self) -> Tensor:
        """Compute the norm of the shorter sequence and its gradient."""
        kernels, weight, residual = self.kernels, self.weight, self.after
        for _ in range(2):
            kernels.rms_norm(residual, weight, NORM_EPS, None, self.dtype)
        return kernels.rms_norm_backward(residual, weight, NORM_EPS, None, self.grad_hidden, self.after)[0]
