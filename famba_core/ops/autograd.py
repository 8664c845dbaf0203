"""The scan and the convolution as autograd functions over a backend's kernels.

Only inputs are saved for backward; states and convolutions are computed again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from famba_core.config import ConfigError
from famba_core.ops.backend import Backend
from famba_core.ops.kernels import Kernels, Reverse

Gradients = tuple[Tensor | None, ...]
Prepare = Callable[[Tensor], Tensor]  # gives a tensor the strides and the dtype that the kernels take


def kernel_backend(
    name: str,
    *,
    unsupported_reason: Callable[..., str | None],
    load_kernels: Callable[[], Kernels],
    prepare: Prepare,
) -> Backend:
    """Return a backend whose scan and convolution are autograd functions over its kernels.

    prepare: applied to every input and output gradient; results get the dtype of the inputs.
    """

    def selective_scan(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor,
        *, reverse: Sequence[bool],
    ) -> Tensor:  # fmt: skip
        out: Tensor = _Scan.apply(load_kernels(), prepare, tuple(reverse), u, delta, A, B, C, D, delta_bias)
        return out

    def causal_conv_silu(x: Tensor, weight: Tensor, bias: Tensor, *, reverse: Sequence[bool]) -> Tensor:
        out: Tensor = _Conv.apply(load_kernels(), prepare, tuple(reverse), x, weight, bias)
        return out

    return Backend(
        name=name,
        selective_scan=selective_scan,
        causal_conv_silu=causal_conv_silu,
        unsupported_reason=unsupported_reason,
        load_kernels=load_kernels,
    )


def first_order(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Let a function's backward refuse `create_graph=True`: the derivatives of its gradients would be missing."""

    @functools.wraps(backward)
    def checked(ctx: Any, *gradients: Tensor) -> Gradients:
        if torch.is_grad_enabled():
            sentence = "second derivatives need backend='reference'; the others compute first derivatives only"
            raise ConfigError.of("create_graph", sentence)
        return backward(ctx, *gradients)

    return checked


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: Kernels, prepare: Prepare, reverse: Reverse, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.constants = kernels, prepare, reverse
        u, delta, A, B, C, D, delta_bias = map(prepare, inputs)
        return kernels.scan_forward(u, delta, A, B, C, D, delta_bias, None, reverse).to(inputs[0].dtype)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_y: Tensor) -> Gradients:
        kernels, prepare, reverse = ctx.constants
        u, delta, A, B, C, D, delta_bias = map(prepare, ctx.saved_tensors)
        grad_B, grad_C = B.new_empty(B.shape), C.new_empty(C.shape)
        grad = kernels.scan_backward(
            u, delta, A, B, C, D, delta_bias, None, reverse, prepare(grad_y), grad_B, grad_C, None
        )
        return _as_inputs(ctx, grad.u, grad.delta, grad.A, grad_B, grad_C, grad.D, grad.delta_bias)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: Kernels, prepare: Prepare, reverse: Reverse, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.constants = kernels, prepare, reverse
        x, weight, bias = map(prepare, inputs)
        return kernels.conv_forward(x, weight, bias, reverse).to(inputs[0].dtype)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_u: Tensor) -> Gradients:
        kernels, prepare, reverse = ctx.constants
        x, weight, bias = map(prepare, ctx.saved_tensors)
        grad_x = x.new_empty(x.shape)
        return _as_inputs(ctx, grad_x, *kernels.conv_backward(x, weight, bias, reverse, prepare(grad_u), grad_x))


def _as_inputs(ctx: Any, *gradients: Tensor) -> Gradients:
    """Return what backward returns: nothing for the three constants, and each gradient in its input's dtype."""
    inputs = ctx.saved_tensors
    return None, None, None, *(grad.to(x.dtype) for grad, x in zip(gradients, inputs, strict=True))
