"""Logits and gradients of the published model, for weights and images that both codes generate themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from backends import FAST
from reference_weights import reference_images, reference_weights

from famba_core import FusionConfig, ModelConfig, build_model

GOLDEN = np.load(Path(__file__).with_name("golden") / "vim_tiny_reference.npz")
CASES = {
    "vim_tiny_mid": (ModelConfig(num_classes=1000, cls_position="middle"), FusionConfig()),
    "vim_tiny_head_upper_6_9": (ModelConfig(num_classes=100), FusionConfig(strategy="upper", start_layer=6, r=9)),
}


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_equal_those_of_the_published_model(case, backend):
    model = build_model(*CASES[case], backend=backend)
    model.load_state_dict(reference_weights(model.state_dict()), strict=True)

    logits = model(reference_images())
    loss = F.cross_entropy(logits, torch.tensor([3, 77]))
    loss.backward()

    expected = torch.from_numpy(GOLDEN[f"{case}/logits"])
    assert expected.std() > 0.5, "the tolerance below is for logits of unit scale"
    torch.testing.assert_close(logits.detach(), expected, atol=5e-3, rtol=0)
    assert loss.item() == pytest.approx(float(GOLDEN[f"{case}/loss"]), abs=5e-3)
    norms = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    for name, norm in zip(GOLDEN[f"{case}/gradient_names"], GOLDEN[f"{case}/gradient_norms"], strict=True):
        assert norms[name] == pytest.approx(norm, rel=0.02, abs=1e-9), name
