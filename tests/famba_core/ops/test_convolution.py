"""The causal convolution with SiLU: every backend against the naive one in float64."""

import pytest
import torch
from backends import FAST, conv_inputs, outputs_and_gradients

from famba_core.ops import reference
from famba_core.ops.interface import causal_conv_silu


@pytest.mark.parametrize("reverse", [(False, True), (True,)])
@pytest.mark.parametrize(("length", "width"), [(1, 16), (2, 5), (3, 33), (4, 16), (197, 20)])
@pytest.mark.parametrize("backend", FAST)
def test_convolution_agrees_with_the_naive_one(backend, length, width, reverse):
    inputs = conv_inputs(2, length, len(reverse), width)
    found = outputs_and_gradients(causal_conv_silu, inputs, reverse=reverse, backend=backend)
    expected = outputs_and_gradients(reference.causal_conv_silu, [x.double() for x in inputs], reverse=reverse)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize("backend", FAST)
def test_convolution_agrees_for_views(backend):
    x, weight, bias = conv_inputs(3, 8, 2, 40)
    views = {
        "half of the channels": x.chunk(2, dim=-1)[1],
        "every second row": torch.cat((x, x), 1)[:, ::2, :20],
        "middle rows": torch.cat((x, x), 1)[:, 3:11, :20],
        "channels first": x.transpose(1, 2)[:, :20, :],
    }
    for name, view in views.items():
        w, b = weight[:, : view.shape[2]], bias[:, : view.shape[2]]
        found = outputs_and_gradients(causal_conv_silu, [view, w, b], reverse=(False, True), backend=backend)
        expected = outputs_and_gradients(
            reference.causal_conv_silu, [t.double() for t in (view, w, b)], reverse=(False, True)
        )
        for a, e in zip(found, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("backend", FAST)
def test_convolution_agrees_for_bfloat16(backend):
    x, weight, bias = conv_inputs(2, 12, 2, 20)
    with torch.autocast("cpu", torch.bfloat16):
        y = causal_conv_silu(x.bfloat16(), weight, bias, reverse=(False, True), backend=backend)
    assert y.dtype == torch.bfloat16
    expected = reference.causal_conv_silu(x.bfloat16(), weight, bias, reverse=(False, True))
    torch.testing.assert_close(y.float(), expected.float(), rtol=2e-2, atol=3e-2)
