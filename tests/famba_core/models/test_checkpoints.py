"""load_checkpoint: official weights load strictly, safely, and with the known conversions."""

import argparse
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from reference_weights import reference_images, reference_weights
from torch import Tensor

from famba_core import ConfigError, ModelConfig, build_model, load_checkpoint


def official_state(**changes: object) -> dict[str, Tensor]:
    """Weights of a Vim-Ti as published: 197 tokens, the class token in the middle, 1000 classes."""
    config = ModelConfig(**{"backbone": "vim_tiny", "num_classes": 1000, "cls_position": "middle", **changes})
    with torch.device("meta"):
        model = build_model(config)
    return reference_weights(model.state_dict())


def test_official_weights_load_as_they_are(tmp_path):
    state = official_state()
    file = tmp_path / "vim.pth"
    # as the published files are: weights under "model", and the command line as a Namespace
    torch.save({"model": state, "epoch": 299, "args": argparse.Namespace(lr=5e-4, output_dir=None)}, file)
    model = build_model(ModelConfig(num_classes=1000, cls_position="middle"))
    assert load_checkpoint(model, file) == ()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_class_token_moves_from_the_middle_to_the_head():
    state = official_state()
    model = build_model(ModelConfig(num_classes=1000, cls_position="head"))
    notes = load_checkpoint(model, state)
    assert notes == ("class token's position embedding moved from the middle to the head",)
    order = [98, *range(98), *range(99, 197)]
    assert torch.equal(model.pos_embed, state["pos_embed"][:, order])

    back = build_model(ModelConfig(num_classes=1000, cls_position="middle"))
    load_checkpoint(back, model.state_dict(), cls_position="head")
    assert torch.equal(back.pos_embed, state["pos_embed"])


def bicubic(values: Tensor, size: int) -> Tensor:
    """Keys' cubic convolution with a = -0.75 along the first dimension, edges repeated, centres of pixels aligned."""
    a, rows = -0.75, []
    for i in range(size):
        at = (i + 0.5) * len(values) / size - 0.5
        total = torch.zeros_like(values[0])
        for j in range(int(at // 1) - 1, int(at // 1) + 3):
            d = abs(at - j)
            near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
            total = total + (near if d <= 1 else far) * values[min(max(j, 0), len(values) - 1)]
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("image_size", [448, 112, 160])
def test_other_image_size_resizes_the_positions_of_patches_only(image_size):
    state = official_state()
    model = build_model(ModelConfig(image_size=image_size, num_classes=1000, cls_position="middle"))
    side = image_size // 16
    assert load_checkpoint(model, state) == (f"position embeddings resized from 14 x 14 to {side} x {side} patches",)
    old, new = state["pos_embed"][0].double(), model.pos_embed[0].detach().double()
    middle = side * side // 2
    assert torch.equal(new[middle], old[98])
    grid = torch.cat((old[:98], old[99:])).unflatten(0, (14, 14))
    expected = bicubic(bicubic(grid, side).transpose(0, 1), side).transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(torch.cat((new[:middle], new[middle + 1 :])), expected, rtol=1e-5, atol=1e-5)


def test_head_with_other_classes_is_not_loaded():
    state = official_state()
    model = build_model(ModelConfig(num_classes=100, cls_position="middle"))
    head = model.head.weight.detach().clone()
    assert load_checkpoint(model, state) == ("head not loaded: it has 1000 classes, but the model has 100",)
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.layers[5].mixer.in_proj.weight, state["layers.5.mixer.in_proj.weight"])


def test_mismatches_are_all_reported_and_change_nothing():
    state = official_state()
    del state["layers.3.mixer.D_b"]
    state["layers.0.mixer.gate"] = torch.zeros(3)
    state["norm_f.weight"] = torch.ones(384)
    model = build_model(ModelConfig(num_classes=1000, cls_position="middle"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError) as refused:
        load_checkpoint(model, state)
    assert tuple((problem.key, problem.sentence) for problem in refused.value.problems) == (
        ("checkpoint", "layers.3.mixer.D_b is missing"),
        ("checkpoint", "layers.0.mixer.gate is not a weight of vim_tiny"),
        ("checkpoint", "norm_f.weight has shape (384,), but vim_tiny needs (192,)"),
    )
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_weights_of_another_backbone_are_refused():
    model = build_model(ModelConfig(num_classes=1000))
    with pytest.raises(ConfigError) as refused:
        load_checkpoint(model, official_state(backbone="vim_small"))
    sentences = [problem.sentence for problem in refused.value.problems]
    assert "cls_token has shape (1, 1, 384), but vim_tiny needs (1, 1, 192)" in sentences
    assert len(sentences) > 24 * 10


def test_non_square_positions_are_refused():
    state = official_state()
    state["pos_embed"] = state["pos_embed"][:, :150]
    with pytest.raises(
        ConfigError, match="pos_embed has 150 tokens; it must have a square number of patches and a class token"
    ):
        load_checkpoint(build_model(ModelConfig(num_classes=1000)), state)


class Malicious:
    """Object whose unpickling creates a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def as_torch_file(content: object, file: Path) -> None:
    torch.save({"model": official_state(), "extra": content}, file)


def as_pickle(content: object, file: Path) -> None:
    file.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("write", [as_torch_file, as_pickle])
def test_file_with_code_is_refused_and_the_code_does_not_run(write, tmp_path):
    trap = tmp_path / "trap"
    write(Malicious(trap), tmp_path / "weights.pth")
    with pytest.raises(
        ConfigError, match=r"is not a file of plain weights: it contains a \w+\.mkdir, and only tensors, "
    ):
        load_checkpoint(build_model(ModelConfig()), tmp_path / "weights.pth")
    assert not trap.exists()
    pickle.loads(pickle.dumps(Malicious(trap)))
    assert trap.exists(), "the trap itself must work"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"plain text", b"PK\x03\x04 half an archive", b"\x80\x02\x86.", b"\x80\x02.", b"\x80\x02h\x07.",
        *(random.Random(seed).randbytes(200) for seed in range(5)),
    ],
)  # fmt: skip
def test_other_files_are_refused(content, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"weights\.pth is not a file of plain weights: ."):
        load_checkpoint(build_model(ModelConfig()), file)


def test_missing_and_empty_sources_are_refused(tmp_path):
    model = build_model(ModelConfig())
    with pytest.raises(ConfigError, match=r"gone\.pth does not exist"):
        load_checkpoint(model, tmp_path / "gone.pth")
    with pytest.raises(ConfigError, match="is not a file of plain weights"):
        load_checkpoint(model, tmp_path)
    for content in ({}, {"model": {}}, {"model": [1, 2]}, {"epoch": 3}, {"state": torch.zeros(2), "lr": 0.1}):
        with pytest.raises(ConfigError, match="must be a state dict, or have one under 'model' or 'state_dict'; "):
            load_checkpoint(model, content)


def test_model_with_converted_weights_runs():
    model = build_model(ModelConfig(image_size=64, num_classes=7))
    assert len(load_checkpoint(model, official_state())) == 3
    assert model(reference_images(size=64)).isfinite().all()
