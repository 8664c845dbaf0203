"""What a model costs, computed from its sizes alone: parameters, FLOPs, bytes moved, and memory of a training step.

The fused block is what is counted: what it keeps for backward, and its working memory while it runs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from famba_core.config import ModelConfig, Precision, TrainConfig
from famba_core.cost.roofline import Limits, Work, least_times
from famba_core.fusion.schedule import tokens_per_layer
from famba_core.models.vim.constants import CONV_WIDTH, REVERSE

DIRECTIONS = len(REVERSE)
SCAN_FLOPS_PER_STATE = 7  # exponent and exp of the decay, product of the input, multiply-add of state and of output
FLOAT_BYTES = 4
MERGE_BYTES = 12  # per token: its target as int64, and its share

# Instructions per state. Forward: exponent of the decay, input, state, output. Backward: the first 3 again, the state's
# gradient through output and decay, and the gradients of B, C, input, decay, step and A.
SCAN_OPS_FORWARD, SCAN_OPS_BACKWARD = 4, 12
# Operators started in forward and backward of a layer, and additional ones in a fusing layer.
LAYER_STARTS, FUSION_STARTS = 60, 25
# Passes over the images, in float32, during augmentation: resampling, noise, mixing, normalisation.
AUGMENT_PASSES = 30
# Share of the limits that kernels reach. Measured on a CPU with AVX-512: 0.6 for vim_tiny, 0.4 for vim_nano.
REACHED = 0.5
TRAINING = 3  # forward and backward relative to forward: backward has two products for each product of forward
# Passes over a parameter in a step: AdamW reads weight, gradient and two moments and writes all but the gradient;
# backward writes the gradient; the moving average is read twice and written once.
OPTIMIZER_PASSES, AVERAGE_PASSES = 8, 3


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """The training settings that a step's cost depends on."""

    batch: int = 1  # images
    precision: Precision = "float32"
    ema: bool = True
    recompute: bool = False

    @classmethod
    def of(cls, train: TrainConfig) -> StepSettings:
        """Return the settings of a training run with full batches."""
        return cls(batch=train.batch_size, precision=train.precision, ema=train.ema, recompute=train.recompute)


DEFAULT = StepSettings()


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one model under one schedule."""

    parameters: int
    flops_per_image: float  # forward, 2 per multiply-add
    activation_bytes_per_image: float  # kept from forward to backward


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Cost of one training step of a whole batch."""

    work: Work
    starts: int  # kernels or operators that are started one by one
    peak_bytes: float  # weights, gradients, optimizer, average, activations, and working memory of a layer's backward
    fullest_layer: int | None  # from 1: its backward needs the most memory; None where the optimizer's step does

    def time_s(self, limits: Limits) -> float:
        """Predict seconds: the resources' times one after the other, at the share of the limits that kernels reach,
        plus the starts. Ratios are better predicted than seconds, because that share varies little with the schedule.
        """
        return least_times(self.work, limits).serial / REACHED + self.starts * limits.start_s


def cost(model: ModelConfig, schedule: Sequence[int], settings: StepSettings = DEFAULT) -> Cost:
    """Count parameters, FLOPs and bytes of `model` when layer i removes schedule[i] tokens."""
    s = _sizes(model, settings)
    layers = s.layers(schedule)
    tokens = sum(length for length, _ in layers)
    products = s.projections * tokens + s.D * sum(_similarities(length, r) for length, r in layers) + s.outside_products
    scan_flops = DIRECTIONS * s.E * (2 * CONV_WIDTH + SCAN_FLOPS_PER_STATE * s.N)
    return Cost(
        parameters=s.parameters,
        flops_per_image=2 * products + scan_flops * tokens,
        activation_bytes_per_image=s.embedding_bytes + sum(s.kept_bytes(length, r) for length, r in layers),
    )


def step_cost(model: ModelConfig, schedule: Sequence[int], settings: StepSettings = DEFAULT) -> StepCost:
    """Predict work and peak memory of one training step."""
    return _step_cost(model, tuple(schedule), settings)


@functools.cache  # the thousands of trials of a plan share them across seeds
def _step_cost(model: ModelConfig, schedule: tuple[int, ...], settings: StepSettings) -> StepCost:
    s, batch = _sizes(model, settings), settings.batch
    passes = OPTIMIZER_PASSES + (AVERAGE_PASSES if settings.ema else 0)
    pixels = 3 * model.image_size**2
    moved = passes * s.parameters + AUGMENT_PASSES * pixels * batch
    around = Work(matmul_flops=0, vector_ops=0, exps=0, bytes=FLOAT_BYTES * moved)
    peak_bytes, fullest_layer = _peak(s, schedule)
    return StepCost(
        work=image_work(model, schedule, settings) * batch + around,
        starts=LAYER_STARTS * s.depth + FUSION_STARTS * sum(r > 0 for r in schedule),
        peak_bytes=peak_bytes,
        fullest_layer=fullest_layer,
    )


def image_work(model: ModelConfig, schedule: Sequence[int], settings: StepSettings = DEFAULT) -> Work:
    """Count forward and backward of the whole model for one image."""
    s = _sizes(model, settings)
    work = Work(matmul_flops=TRAINING * 2 * s.outside_products, vector_ops=0, exps=0, bytes=s.embedding_bytes)
    for length, r in s.layers(schedule):
        work = work + layer_work(model, length, r, settings)
    return work


def layer_work(model: ModelConfig, length: int, r: int = 0, settings: StepSettings = DEFAULT) -> Work:
    """Count forward and backward of a layer that removes r tokens of one image and leaves `length`."""
    s = _sizes(model, settings)
    states = DIRECTIONS * s.E * s.N * length
    again = s.steps_weights + (s.in_weights + s.low_rank_weights if settings.recompute else 0)
    return Work(
        matmul_flops=2 * ((TRAINING * s.projections + again) * length + s.D * _similarities(length, r)),
        vector_ops=(SCAN_OPS_FORWARD + SCAN_OPS_BACKWARD) * states,
        exps=2 * states,
        bytes=s.moved_bytes(length, r),
    )


def predicted_ratios(
    model: ModelConfig, schedule: Sequence[int], limits: Limits, settings: StepSettings
) -> tuple[float, float]:
    """Predict step time and peak memory under `schedule`, relative to a step without fusion and recompute."""
    fused = step_cost(model, schedule, settings)
    unfused = step_cost(model, [0] * len(schedule), replace(settings, recompute=False))
    return fused.time_s(limits) / unfused.time_s(limits), fused.peak_bytes / unfused.peak_bytes


class _Sizes:
    """Sizes by their letters in the paper, and what a layer costs per token."""

    def __init__(self, model: ModelConfig, settings: StepSettings):
        self.model, self.settings = model, settings
        sizes = model.sizes
        self.D, self.E, self.N, self.R = sizes.width, 2 * sizes.width, sizes.state_size, math.ceil(sizes.width / 16)
        self.depth = sizes.depth
        self.low_rank = DIRECTIONS * (self.R + 2 * self.N)  # steps before their projection, B and C
        self.value = 2 if settings.precision == "bf16" else FLOAT_BYTES  # bytes of an activation between products
        D, E, N = self.D, self.E, self.N
        self.in_weights, self.low_rank_weights = 2 * D * E, E * self.low_rank
        self.steps_weights = DIRECTIONS * self.R * E
        self.projections = self.in_weights + D * E + self.low_rank_weights + self.steps_weights
        vectors = DIRECTIONS * (E * N + E + E * (CONV_WIDTH + 1) + E)  # A, D, convolution with bias, step's bias
        self.layer_parameters = self.projections + vectors + D
        patch_values = 3 * model.patch**2
        outside = D * (patch_values + 1) + D * (model.num_tokens + 1) + model.num_classes * (D + 1) + D
        self.parameters = self.depth * self.layer_parameters + outside
        self.outside_products = D * (patch_values * model.num_patches + model.num_classes)  # patch embedding and head
        self.embedding_bytes = self.value * patch_values * model.num_patches  # the images, for the embedding's gradient

    def layers(self, schedule: Sequence[int]) -> list[tuple[int, int]]:
        """Return for each layer the tokens that it leaves and those that it removes."""
        return list(zip(tokens_per_layer(schedule, self.model.num_tokens), schedule, strict=True))

    def kept_bytes(self, length: int, r: int) -> int:
        """Count the bytes kept from forward to backward by a layer that removes r tokens and leaves `length`."""
        before = FLOAT_BYTES * self.D * (length + r) + (MERGE_BYTES * (length + r) if r else 0)
        return before + (0 if self.settings.recompute else self.value * (2 * self.E + self.low_rank) * length)

    def moved_bytes(self, length: int, r: int) -> int:
        """Count the bytes moved in forward and backward if everything between two matrix products stays on the chip.

        Residual and its gradient: read and written forward, read twice and written backward. Inner values: x and z
        are written and read twice, the gate's output is written and read. Backward does the same with their gradients,
        which two products read, and with the gradient of the scan's input on its way to its projection. A fusing layer
        also reads and writes the hidden states for the norm, its unit vectors and the merge, and the similarities a
        few times.
        """
        residual = FLOAT_BYTES * 5 * self.D * (length + r)
        if r:
            residual += FLOAT_BYTES * (8 * self.D * (length + r) + 6 * _similarities(length, r))
        return residual + self.value * (23 * self.E + 2 * self.D + 4 * self.low_rank) * length

    def working_bytes(self, length: int, r: int) -> int:
        """Count the most bytes that a layer's backward works with, for one image: the scan's inputs and gradients in
        each direction, the gradients of x and z and of the gate, and the residual's gradient before and after."""
        inner = (4 * DIRECTIONS + 2 + 1 + 1) * self.E + self.low_rank
        again = 2 * self.E + self.low_rank if self.settings.recompute else 0
        return FLOAT_BYTES * 2 * self.D * (length + r) + self.value * (inner + again + self.D) * length


_sizes = functools.cache(_Sizes)


def _similarities(length: int, r: int) -> int:
    """Count the pairs of set A and set B; 0 for a layer that does not fuse."""
    return ((length + r + 1) // 2) * ((length + r) // 2) if r else 0


def _peak(s: _Sizes, schedule: Sequence[int]) -> tuple[float, int | None]:
    """Return bytes and layer of the fullest moment of a step.

    Backward goes from the last layer to the first: activations are freed, gradients are added.
    """
    batch = s.settings.batch
    resident = FLOAT_BYTES * (4 if s.settings.ema else 3) * s.parameters  # weights, two moments, average
    kept = s.embedding_bytes
    fullest: float = FLOAT_BYTES * s.parameters  # all gradients, in the optimizer
    fullest_layer = None
    for i, (length, r) in enumerate(s.layers(schedule), start=1):
        kept += s.kept_bytes(length, r)
        gradients = FLOAT_BYTES * (s.depth - i) * s.layer_parameters
        total = batch * (kept + s.working_bytes(length, r)) + gradients
        if total > fullest:
            fullest, fullest_layer = total, i
    return resident + fullest, fullest_layer
