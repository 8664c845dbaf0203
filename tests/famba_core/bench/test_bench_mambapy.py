"""mambapy as a scan backend: the same numbers as the float64 twin, registered only during a benchmark."""

import importlib.util

import pytest
import torch
from backends import outputs_and_gradients

from famba_core import ConfigError, ModelConfig, build_model
from famba_core.bench.machine import mambapy_registered
from famba_core.ops import reference, registry
from famba_core.ops.external import mambapy_ops

needs_mambapy = pytest.mark.skipif(importlib.util.find_spec("mambapy") is None, reason="mambapy is not installed")
REVERSE = (False, True)


@needs_mambapy
@pytest.mark.parametrize("length", [1, 2, 5, 8, 33])
def test_outputs_and_gradients_agree_with_the_twin(length):
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    inputs = [
        normal(2, length, 2, 6), normal(2, length, 2, 6), -normal(2, 6, 4).exp(), normal(2, length, 2, 4),
        normal(2, length, 2, 4), normal(2, 6), normal(2, 6),
    ]  # fmt: skip
    found = outputs_and_gradients(mambapy_ops.selective_scan, inputs, reverse=REVERSE)
    expected = outputs_and_gradients(reference.selective_scan, inputs, reverse=REVERSE)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@needs_mambapy
def test_model_on_mambapy_gives_the_same_logits(small_backbone):
    config = ModelConfig(backbone=small_backbone, image_size=8, num_classes=5)
    images = torch.randn(2, 3, 8, 8)
    with mambapy_registered():
        torch.manual_seed(0)
        peer = build_model(config, backend="mambapy")
        torch.manual_seed(0)
        own = build_model(config, backend="torch")
        with torch.no_grad():
            torch.testing.assert_close(peer(images), own(images), rtol=1e-4, atol=1e-5)


def test_mambapy_is_registered_only_during_a_benchmark():
    before = list(registry.backend_names())
    with mambapy_registered():
        assert [*before, "mambapy"] == list(registry.backend_names())
        registry.check_backend("mambapy")
    assert before == list(registry.backend_names())
    with pytest.raises(ConfigError, match="not a scan backend"):
        registry.check_backend("mambapy")
