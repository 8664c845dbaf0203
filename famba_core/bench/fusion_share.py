"""How long matching and merging take: what a fusing layer does beyond one that gets the shorter sequence at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from famba_core.bench.timing import Contender, Rounds, interleave
from famba_core.bench.workloads import Workload
from famba_core.config import FusionConfig
from famba_core.fusion.matching import shares
from famba_core.fusion.schedule import resolve, tokens_per_layer
from famba_core.models.vim.constants import NORM_EPS
from famba_core.ops.kernels import Kernels
from famba_core.ops.registry import choose
from famba_core.training.cuda_graph import wrap_in_graph

ROUNDS = Rounds(warmup=5, least=5, most=20, budget_s=3.0)  # warm-up enough for a graph's capture


def fusion_ms(load: Workload, fusion: FusionConfig) -> float | None:
    """Milliseconds in one step, forward and backward, all layers; None for a backend without kernels of its own.

    Two passes are timed in turns, over the sequence lengths of all fusing layers: one that matches, and whose norm
    and skip merge, and one whose norm sees the merged sequence. The rest of a layer is the same.
    """
    sizes = load.model.sizes
    width = sizes.width
    probe = torch.empty(1, 1, width, device=load.device)
    kernels = choose(load.backend, probe, state_size=sizes.state_size).kernels
    if kernels is None:
        return None
    dtype = torch.bfloat16 if load.precision == "bf16" else torch.float32
    schedule = resolve(fusion, load.model.token_grid).schedule
    layers = [
        _Layer(load, kernels, fusion, length, r, dtype)
        for length, r in zip(tokens_per_layer(schedule, load.model.num_tokens), schedule, strict=True)
        if r > 0
    ]

    def over_layers(part: Callable[[_Layer], Tensor]) -> Callable[[], Tensor]:
        def run(unused: Tensor) -> Tensor:
            out = unused
            for layer in layers:
                out = part(layer)
            return out

        # as in the step itself, the device must not wait for the host between small kernels
        graph = wrap_in_graph(run, load.device, name="matching and merging")
        return lambda: graph(probe)

    passes = [
        Contender(name=name, build=lambda part=part: over_layers(part))  # type: ignore[misc]
        for name, part in (("fused", _Layer.fused), ("plain", _Layer.plain))
    ]
    for _ in interleave(passes, device=load.device, rounds=ROUNDS):
        pass
    fused, plain = (contender.time for contender in passes)
    return None if fused is None or plain is None else max(0.0, fused.median_ms - plain.median_ms)


class _Layer:
    """The tensors of one fusing layer, of random numbers."""

    def __init__(self, load: Workload, kernels: Kernels, fusion: FusionConfig, length: int, r: int, dtype: torch.dtype):
        device, width = load.device, load.model.sizes.width
        self.kernels, self.fusion, self.r, self.dtype = kernels, fusion, r, dtype
        self.before = torch.randn(load.batch, length + r, width, device=device)
        self.after = torch.randn(load.batch, length, width, device=device)
        self.weight = torch.ones(width, device=device)
        self.class_index = torch.zeros(load.batch, dtype=torch.long, device=device)
        self.sizes = torch.ones(load.batch, length + r, device=device)
        self.grad_hidden = self.after.to(dtype)

    def fused(self) -> Tensor:
        kernels, weight, residual = self.kernels, self.weight, self.before
        metric = kernels.rms_norm(residual, weight, NORM_EPS, None, torch.float32)
        matched = kernels.match(metric, self.r, self.class_index, self.fusion.order)
        merge, _ = shares(matched, self.sizes, self.fusion.weighting)
        for _ in range(2):  # forward, and again in backward
            kernels.rms_norm(residual, weight, NORM_EPS, merge, self.dtype)
        kernels.merge(residual, merge)
        return kernels.rms_norm_backward(residual, weight, NORM_EPS, merge, self.grad_hidden, self.after)[0]

    def plain(self) -> Tensor:
        kernels, weight, residual = self.kernels, self.weight, self.after
        for _ in range(2):
            kernels.rms_norm(residual, weight, NORM_EPS, None, self.dtype)
        return kernels.rms_norm_backward(residual, weight, NORM_EPS, None, self.grad_hidden, self.after)[0]
