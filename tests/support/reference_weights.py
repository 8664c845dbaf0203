"""Weights and images generated from names and shapes alone, identical on every machine.

`golden/vim_tiny_reference.npz` holds what the published Vim code (hustvl/Vim's model file with its reference scan, in
float32 on a CPU; for the fused case with the published matching in its blocks) returned for exactly these numbers.
"""

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def reference_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the names and shapes of `state`."""
    return {name: torch.tensor(_values(name, tuple(value.shape)), dtype=torch.float32) for name, value in state.items()}


def reference_images(batch: int = 2, size: int = 224, seed: int = 7) -> Tensor:
    """Return smooth images [batch, 3, size, size]: neighbouring tokens are similar, as in photographs."""
    rng = np.random.default_rng(seed)
    coarse = torch.tensor(rng.standard_normal((batch, 3, 9, 9)), dtype=torch.float32)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return smooth + 0.05 * torch.tensor(rng.standard_normal((batch, 3, size, size)), dtype=torch.float32)


def _values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    noise = rng.standard_normal(shape)
    if name.endswith(("A_log", "A_b_log")):
        return np.log(np.arange(1, shape[-1] + 1)) + 0.1 * noise
    if name.endswith(("dt_proj.bias", "dt_proj_b.bias")):
        # steps so long that the output depends on the states, not only on the skip connection
        step = np.exp(rng.uniform(math.log(2e-2), math.log(5e-1), shape))
        return step + np.log(-np.expm1(-step))
    if name.endswith(("x_proj.weight", "x_proj_b.weight")):
        return 2 * noise / math.sqrt(shape[-1])
    if name.endswith((".D", ".D_b", "norm.weight", "norm_f.weight")):
        return 1 + 0.1 * noise
    if name.endswith("bias"):
        return 0.02 * noise
    if name in ("cls_token", "pos_embed"):
        return 0.2 * noise
    return noise / math.sqrt(np.prod(shape[1:]))
