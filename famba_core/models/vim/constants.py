"""Numbers that every Vision Mamba shares. Importing this module does not import torch, so the cost model can use it."""

from __future__ import annotations

REVERSE = (False, True)  # the directions of a layer's scans: does time run backwards?
CONV_WIDTH = 4  # taps of the causal convolution
NORM_EPS = 1e-5
