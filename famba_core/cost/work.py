"""What a model costs, from its sizes alone: parameters, FLOPs, bytes moved, and the memory of a training step.

Counted is the fused block: what it keeps for backward, and what it works with while it runs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from famba_core.config import ModelConfig, Precision
from famba_core.cost.roofline import Limits, Work, least_times
from famba_core.fusion.schedule import tokens_per_layer
from famba_core.models.vim.constants import CONV_WIDTH, REVERSE

DIRECTIONS = len(REVERSE)
SCAN_FLOPS_PER_STATE = 7  # decay's exponent and exp, input's product, multiply-add of the state and of the output
FLOAT_BYTES = 4
MERGE_BYTES = 12  # of a token: its target as int64, and its share

# Instructions per state: 4 forward (the decay's exponent, the input, the state, the output); backward the first 3
# again, the state's gradient through output and decay, and those of B, C, the input, the decay, the step and A.
SCAN_OPS_FORWARD, SCAN_OPS_BACKWARD = 4, 12
# Operators started in forward and backward of a layer, and further ones where it fuses.
LAYER_STARTS, FUSION_STARTS = 60, 25
# Passes over the images, float32, in augmentation: resampling, noise, mixing, normalisation.
AUGMENT_PASSES = 30
# Share of the limits that kernels reach; measured on a CPU with AVX-512: 0.6 for vim_tiny, 0.4 for vim_nano.
REACHED = 0.5
TRAINING = 3  # forward and backward over forward alone: backward multiplies twice for every product of forward
# Passes over a parameter in a step: AdamW reads weight, gradient and two moments and writes all but the gradient, the
# average is read twice and written, backward writes the gradient.
OPTIMIZER_PASSES, AVERAGE_PASSES = 8, 3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The price of one model under one schedule."""

    parameters: int
    flops_per_image: float  # forward, 2 per multiply-add
    bytes_per_image: float  # that a training step moves at least, parameters left out
    activation_bytes_per_image: float  # kept from forward to backward


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """The price of one training step of a whole batch."""

    work: Work
    starts: int  # kernels or operators started one by one
    peak_bytes: float  # weights, gradients, optimizer, averages, activations and what a layer's backward works with
    fullest_layer: int | None  # from 1, whose backward needs the peak; None where the optimizer's step does

    def time_s(self, limits: Limits) -> float:
        """Seconds, roughly: the resources' limits one after the other, as far as kernels reach them, and the starts.
        Its ratios are better than itself: how far a device stays below its limits changes little with the schedule."""
        return least_times(self.work, limits).serial / REACHED + self.starts * limits.start_s


P = ParamSpec("P")
R = TypeVar("R")


def _once(
    function: Callable[Concatenate[ModelConfig, tuple[int, ...], P], R],
) -> Callable[Concatenate[ModelConfig, Sequence[int], P], R]:
    """Computed once for each of its arguments: the thousands of trials of a plan share them, over seeds."""
    remembering: Callable[..., R] = functools.cache(function)

    @functools.wraps(function)
    def call(model: ModelConfig, schedule: Sequence[int], *arguments: P.args, **options: P.kwargs) -> R:
        return remembering(model, tuple(schedule), *arguments, **options)

    return call


@_once
def cost(
    model: ModelConfig, schedule: Sequence[int], *, precision: Precision = "float32", recompute: bool = False
) -> Cost:
    """Count parameters, FLOPs and bytes of `model` when layer i removes schedule[i] tokens."""
    s = _sizes(model, precision)
    lengths = tokens_per_layer(schedule, model.num_tokens)
    layers = list(zip(lengths, schedule, strict=True))
    scan_flops = DIRECTIONS * s.E * (2 * CONV_WIDTH + SCAN_FLOPS_PER_STATE * s.N)
    return Cost(
        parameters=s.depth * s.layer_parameters + s.outside_parameters,
        flops_per_image=_matmul_flops(s, model, schedule) + scan_flops * sum(lengths),
        bytes_per_image=s.embedding_bytes + sum(s.moved_bytes(length, r) for length, r in layers),
        activation_bytes_per_image=s.embedding_bytes + sum(s.kept_bytes(length, r, recompute) for length, r in layers),
    )


@_once
def step_cost(
    model: ModelConfig,
    schedule: Sequence[int],
    *,
    batch: int,
    precision: Precision = "float32",
    ema: bool = True,
    recompute: bool = False,
) -> StepCost:
    """The work and the peak memory of one training step of `batch` images."""
    s = _sizes(model, precision)
    price = cost(model, schedule, precision=precision, recompute=recompute)
    image = image_work(model, schedule, precision=precision, recompute=recompute)
    passes = OPTIMIZER_PASSES + (AVERAGE_PASSES if ema else 0)
    pixels = 3 * model.image_size**2
    moved = passes * price.parameters + AUGMENT_PASSES * pixels * batch
    around = Work(matmul_flops=0, vector_ops=0, exps=0, bytes=FLOAT_BYTES * moved)
    peak_bytes, fullest_layer = _peak(s, model, schedule, batch, ema, recompute)
    return StepCost(
        work=image * batch + around,
        starts=LAYER_STARTS * s.depth + FUSION_STARTS * sum(r > 0 for r in schedule),
        peak_bytes=peak_bytes,
        fullest_layer=fullest_layer,
    )


def image_work(
    model: ModelConfig, schedule: Sequence[int], *, precision: Precision = "float32", recompute: bool = False
) -> Work:
    """Forward and backward of the whole model for one image."""
    s = _sizes(model, precision)
    outside = s.D * (3 * model.patch**2 * model.num_patches + model.num_classes)
    work = Work(matmul_flops=TRAINING * 2 * outside, vector_ops=0, exps=0, bytes=s.embedding_bytes)
    for length, r in zip(tokens_per_layer(schedule, model.num_tokens), schedule, strict=True):
        work = work + layer_work(model, length, r, precision=precision, recompute=recompute)
    return work


def layer_work(
    model: ModelConfig, length: int, r: int = 0, *, precision: Precision = "float32", recompute: bool = False
) -> Work:
    """Forward and backward of a layer that removes r tokens of one image and leaves `length`."""
    s = _sizes(model, precision)
    states = DIRECTIONS * s.E * s.N * length
    again = s.steps_weights + (s.in_weights + s.low_rank_weights if recompute else 0)
    return Work(
        matmul_flops=2 * ((TRAINING * s.projections + again) * length + s.D * _similarities(length, r)),
        vector_ops=(SCAN_OPS_FORWARD + SCAN_OPS_BACKWARD) * states,
        exps=2 * states,
        bytes=s.moved_bytes(length, r),
    )


def predicted_ratios(
    model: ModelConfig,
    schedule: Sequence[int],
    limits: Limits,
    *,
    batch: int,
    precision: Precision = "float32",
    recompute: bool = False,
) -> tuple[float, float]:
    """Step time and peak memory under `schedule`, over those without fusion and without recompute."""
    fused = step_cost(model, schedule, batch=batch, precision=precision, recompute=recompute)
    unfused = step_cost(model, [0] * len(schedule), batch=batch, precision=precision)
    return fused.time_s(limits) / unfused.time_s(limits), fused.peak_bytes / unfused.peak_bytes


class _Sizes:
    """The letters of the design, and what a layer costs per token."""

    def __init__(self, model: ModelConfig, precision: Precision):
        sizes = model.sizes
        self.D, self.E, self.N, self.R = sizes.width, 2 * sizes.width, sizes.state_size, math.ceil(sizes.width / 16)
        self.depth = sizes.depth
        self.low_rank = DIRECTIONS * (self.R + 2 * self.N)  # steps before their projection, B and C
        self.value = 2 if precision == "bf16" else FLOAT_BYTES  # bytes of an activation between products
        D, E, N = self.D, self.E, self.N
        self.in_weights, self.low_rank_weights = 2 * D * E, E * self.low_rank
        self.steps_weights = DIRECTIONS * self.R * E
        self.projections = self.in_weights + D * E + self.low_rank_weights + self.steps_weights
        vectors = DIRECTIONS * (E * N + E + E * (CONV_WIDTH + 1) + E)  # A, D, convolution with bias, step's bias
        self.layer_parameters = self.projections + vectors + D
        patch_values = 3 * model.patch**2
        self.outside_parameters = D * (patch_values + 1) + D * (model.num_tokens + 1) + model.num_classes * (D + 1) + D
        self.embedding_bytes = self.value * patch_values * model.num_patches  # the images, for the embedding's gradient

    def kept_bytes(self, length: int, r: int, recompute: bool) -> int:
        """From forward to backward, when r tokens go and `length` are left."""
        before = FLOAT_BYTES * self.D * (length + r) + (MERGE_BYTES * (length + r) if r else 0)
        return before + (0 if recompute else self.value * (2 * self.E + self.low_rank) * length)

    def moved_bytes(self, length: int, r: int) -> int:
        """In forward and backward, where everything between two matrix products stays on the chip.

        Residual and its gradient: read and written forward, read twice and written backward. Inner values: x and z
        written and read twice, the gate's output written and read; backward their gradients likewise, which two
        products read, and the scan input's gradient on its way to its projection. A fusing layer reads and writes
        the hidden states for the norm, its unit vectors and the merge, and the similarities a few times.
        """
        residual = FLOAT_BYTES * 5 * self.D * (length + r)
        if r:
            residual += FLOAT_BYTES * (8 * self.D * (length + r) + 6 * _similarities(length, r))
        return residual + self.value * (23 * self.E + 2 * self.D + 4 * self.low_rank) * length

    def working_bytes(self, length: int, r: int, recompute: bool) -> int:
        """In a layer's backward at its fullest, for one image: the scan's inputs and gradients for both directions,
        the gradient of x and z, the gate's, and the gradient of the residual on either side."""
        inner = (4 * DIRECTIONS + 2 + 1 + 1) * self.E + self.low_rank
        again = 2 * self.E + self.low_rank if recompute else 0
        return FLOAT_BYTES * 2 * self.D * (length + r) + self.value * (inner + again + self.D) * length


_sizes = functools.cache(_Sizes)


def _matmul_flops(s: _Sizes, model: ModelConfig, schedule: Sequence[int]) -> float:
    """Forward: patch embedding, projections, similarities, head."""
    lengths = tokens_per_layer(schedule, model.num_tokens)
    similarities = sum(_similarities(length, r) for length, r in zip(lengths, schedule, strict=True))
    patches = 3 * model.patch**2 * model.num_patches
    return 2 * (s.projections * sum(lengths) + s.D * (patches + similarities + model.num_classes))


def _similarities(length: int, r: int) -> int:
    """Pairs of set A and set B, where tokens fuse."""
    return ((length + r + 1) // 2) * ((length + r) // 2) if r else 0


def _peak(
    s: _Sizes, model: ModelConfig, schedule: Sequence[int], batch: int, ema: bool, recompute: bool
) -> tuple[float, int | None]:
    """Bytes and layer of the fullest moment of backward: going back through the layers, activations go and gradients
    come."""
    layers = list(zip(tokens_per_layer(schedule, model.num_tokens), schedule, strict=True))
    parameters = s.depth * s.layer_parameters + s.outside_parameters
    resident = FLOAT_BYTES * (4 if ema else 3) * parameters  # weights, two moments, average
    kept = s.embedding_bytes
    fullest: float = FLOAT_BYTES * parameters  # all gradients, in the optimizer
    fullest_layer = None
    for i, (length, r) in enumerate(layers, start=1):
        kept += s.kept_bytes(length, r, recompute)
        gradients = FLOAT_BYTES * (s.depth - i) * s.layer_parameters
        there = batch * (kept + s.working_bytes(length, r, recompute)) + gradients
        if there > fullest:
            fullest, fullest_layer = there, i
    return resident + fullest, fullest_layer
