"""The Triton kernels, as `famba_core.ops.kernels.Kernels` documents them. Importing this module imports triton."""

from famba_core.ops.triton.conv import conv_backward, conv_forward
from famba_core.ops.triton.match import match
from famba_core.ops.triton.norm import merge, rms_norm, rms_norm_backward
from famba_core.ops.triton.scan import scan_forward
from famba_core.ops.triton.scan_backward import scan_backward

__all__ = [
    "conv_backward",
    "conv_forward",
    "match",
    "merge",
    "rms_norm",
    "rms_norm_backward",
    "scan_backward",
    "scan_forward",
]
