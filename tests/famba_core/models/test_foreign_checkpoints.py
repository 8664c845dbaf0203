"""load_checkpoint on files of other programs: wrapped models, other things beside the weights, odd tensors."""

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from famba_core import ConfigError, ModelConfig, build_model, load_checkpoint
from famba_core.models.classifier import Classifier


def small(backbone: str, **changes: Any) -> Classifier:
    """Return a model of 16 patches whose state dict is as the official ones: its class token is in the middle."""
    return build_model(ModelConfig(**{"backbone": backbone, "image_size": 8, "cls_position": "middle", **changes}))


def taken(part: str) -> str:
    return f"'{part}' taken off the names of the weights"


def lightning(model: Classifier) -> dict[str, Any]:
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    return {"state_dict": weights | {"loss.weight": torch.ones(3)}, "epoch": 3}


def wrapped_in_parts(model: Classifier) -> dict[str, Tensor]:
    return {name.replace("mixer.", "mixer._orig_mod."): value for name, value in model.state_dict().items()}


@pytest.mark.parametrize(("wrap", "notes"), [
    (lambda model: nn.DataParallel(model).state_dict(), (taken("module."),)),
    (lambda model: torch.compile(nn.DataParallel(model)).state_dict(), (taken("_orig_mod."), taken("module."))),
    (lambda model: {"model": torch.compile(model).state_dict()}, (taken("_orig_mod."),)),
    (lambda model: AveragedModel(model).state_dict(),
     (taken("module."), "not weights of the model, left out: n_averaged")),
    (lightning, (taken("model."), "not weights of the model, left out: loss.weight")),
    (wrapped_in_parts, (taken("_orig_mod."),)),
])  # fmt: skip
def test_what_wrappers_put_before_names_is_taken_off_and_said(wrap, notes, small_backbone):
    source, model = small(small_backbone), small(small_backbone)
    assert load_checkpoint(model, wrap(source)) == notes
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_position_of_the_class_token_is_found_in_a_wrapped_state_dict(small_backbone):
    source, model = (small(small_backbone, cls_position="head") for _ in range(2))
    assert load_checkpoint(model, nn.DataParallel(source).state_dict()) == (taken("module."),)
    assert torch.equal(model.pos_embed, source.pos_embed)


def test_several_models_in_one_state_dict_are_refused(small_backbone):
    model = small(small_backbone)
    state = {f"{who}.{name}": value for who in ("student", "teacher") for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=r"whose names begin with student\., teacher\.; pass the weights of one"):
        load_checkpoint(model, state)


def test_weights_of_another_kind_of_model_are_one_sentence(small_backbone):
    with pytest.raises(ConfigError) as refused:
        load_checkpoint(small(small_backbone), {f"layer{i}.conv.weight": torch.ones(2) for i in range(50)})
    assert [problem.sentence for problem in refused.value.problems] == [
        "none of its names is that of a weight of small; the first is layer0.conv.weight"
    ]


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize(
    ("extra", "found"), [(np.float64(71.5), r"numpy\.[\w.]+"), (nn.Linear(1, 1), r"torch\.nn\.\S+Linear")]
)
def test_type_that_is_not_read_from_a_file_is_named(extra, found, zip_format, small_backbone, tmp_path):
    model, file = small(small_backbone), tmp_path / "weights.pth"
    content = {"model": model.state_dict(), "best": extra}
    torch.save(content, file, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(
        ConfigError, match=rf"weights\.pth is not a file of plain weights: it contains a {found}, and only"
    ):
        load_checkpoint(model, file)


def test_number_among_the_weights_is_named(small_backbone):
    model = small(small_backbone)
    state = OrderedDict(model.state_dict(), best=np.float64(71.5))
    with pytest.raises(ConfigError, match="'best' is of type float64, not a tensor"):
        load_checkpoint(model, state)


@pytest.mark.parametrize(("name", "value", "sentence"), [
    ("head.weight", torch.tensor(1.0), r"head\.weight has shape \(\), but small needs \(100, 16\)"),
    ("head.bias", torch.tensor(1.0), r"head\.bias has shape \(\), but small needs \(100,\)"),
    ("pos_embed", torch.zeros(1, 0, 16), "pos_embed has 0 tokens; it must have a square number of patches and a class"),
    ("pos_embed", torch.zeros(1, 1, 16), "pos_embed has 1 tokens; it must have a square number of patches and a class"),
    ("pos_embed", torch.zeros(0, 17, 16), r"pos_embed has shape \(0, 17, 16\), but small needs \(1, 17, 16\)"),
    ("pos_embed", torch.tensor(1.0), r"pos_embed has shape \(\), but small needs \(1, 17, 16\)"),
    ("norm_f.weight", torch.ones(16, dtype=torch.int8), r"norm_f\.weight must be floating-point .* not torch\.int8"),
    ("norm_f.weight", torch.ones(16, device="meta"), r"norm_f\.weight must be .* not torch\.float32 on meta"),
])  # fmt: skip
def test_odd_tensors_are_refused(name, value, sentence, small_backbone):
    model = small(small_backbone)
    with pytest.raises(ConfigError, match=sentence):
        load_checkpoint(model, {**model.state_dict(), name: value}, cls_position="middle")


def test_weights_of_overlapping_patches_are_said():
    """The published fine-tuned weights have patches of 16 pixels every 8 of 224: 27 x 27, and the class token."""
    model = build_model(ModelConfig(num_classes=1000, cls_position="middle"))
    state = {**model.state_dict(), "pos_embed": torch.randn(1, 730, 192)}
    assert load_checkpoint(model, state) == (
        "position embeddings resized from 27 x 27 to 14 x 14 patches",
        "27 x 27 are the patches of a model whose patches overlap by half; here they do not overlap, "
        "so the accuracy is not that of the source",
    )
