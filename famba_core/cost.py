"""What a model costs, from its sizes alone: parameters, FLOPs, and the memory that training keeps for backward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from famba_core.config import ModelConfig
from famba_core.fusion.schedule import tokens_per_layer

CONV_WIDTH = 4
SCAN_FLOPS_PER_STATE = 7  # decay's exponent and exp, input's product, multiply-add of the state and of the output
FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The price of one model under one schedule."""

    parameters: int
    flops_per_image: float  # forward, 2 per multiply-add
    activation_bytes_per_image: float  # kept from forward to backward, in float32


def cost(model: ModelConfig, schedule: Sequence[int]) -> Cost:
    """Count parameters, FLOPs and activation bytes of `model` when layer i removes schedule[i] tokens."""
    s = model.sizes
    D, E, N, R = s.width, 2 * s.width, s.state_size, math.ceil(s.width / 16)
    patch_values = 3 * model.patch**2
    projections = 3 * D * E + 2 * (E * (R + 2 * N) + R * E)  # weights of in_proj, out_proj, x_proj and dt_proj
    direction_vectors = 2 * (E * N + E + E * (CONV_WIDTH + 1) + E)  # A, D, convolution with bias, step's bias
    outside = D * (patch_values + 1) + D * (model.num_tokens + 1) + model.num_classes * (D + 1) + D

    token_flops = 2 * projections + 2 * E * (2 * CONV_WIDTH + SCAN_FLOPS_PER_STATE * N)
    lengths = tokens_per_layer(schedule, model.num_tokens)
    matching_flops = sum(
        2 * D * ((length + r + 1) // 2) * ((length + r) // 2)
        for length, r in zip(lengths, schedule, strict=True)
        if r > 0
    )
    # Kept where the C++ kernels run (the PyTorch ones keep 4 E more a token). Before fusion: the norm's input and its
    # normalised output, and in a fusing layer hidden states and residual on their way into the sums. After it: the
    # mixer's input, x and z; each direction's scan input, steps, and B, C with the steps' low rank; the gate, the
    # mean of the directions, and their product.
    kept_before = [(4 if r > 0 else 2) * D * (length + r) for length, r in zip(lengths, schedule, strict=True)]
    kept_after = (D + 2 * E + 2 * (2 * E + R + 2 * N) + 3 * E) * sum(lengths)
    return Cost(
        parameters=s.depth * (projections + direction_vectors + D) + outside,
        flops_per_image=2 * D * patch_values * model.num_patches
        + token_flops * sum(lengths)
        + matching_flops
        + 2 * D * model.num_classes,
        activation_bytes_per_image=FLOAT_BYTES * (sum(kept_before) + kept_after),
    )
