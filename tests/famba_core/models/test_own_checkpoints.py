"""load_checkpoint on what this package writes: it says where its class token is, and loads unchanged."""

import copy
from typing import Any

import pytest
import torch
from reference_weights import reference_images

from famba_core import ConfigError, ModelConfig, build_model, load_checkpoint
from famba_core.training.trainer import CHECKPOINT

MOVED = ("class token's position embedding moved from the head to the middle",)


def of_version_0_1_0(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the checkpoint without what version 0.1.0 did not note in its state dicts."""
    return {**checkpoint, "model": dict(checkpoint["model"])}


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("cls_position", ["head", "middle"])
def test_checkpoint_of_a_run_loads_unchanged(cls_position, older, trainer, small_backbone, tmp_path):
    config = ModelConfig(backbone=small_backbone, image_size=8, num_classes=5, cls_position=cls_position)
    run = trainer(model=config, epochs=1, checkpoint=tmp_path)
    list(run)
    file = tmp_path / CHECKPOINT
    if older:
        checkpoint = of_version_0_1_0(torch.load(file))
        checkpoint["identity"] = f"(1, {config!r}, FusionConfig(), 'digits', None, AugmentConfig(), TrainConfig())"
        torch.save(checkpoint, file)
    model = build_model(config, run.fusion)
    assert load_checkpoint(model, file) == ()
    images = reference_images(size=8)
    assert torch.equal(model(images), run.step.model(images))
    moved = build_model(ModelConfig(backbone=small_backbone, image_size=8, num_classes=5, cls_position="middle"))
    assert load_checkpoint(moved, file) == (MOVED if cls_position == "head" else ())


def test_averaged_weights_of_a_run_load_unchanged(trainer, small_backbone, tmp_path):
    run = trainer(epochs=1, checkpoint=tmp_path)
    list(run)
    model = build_model(run.model_config)
    assert load_checkpoint(model, torch.load(tmp_path / CHECKPOINT)["ema"]) == ()
    assert torch.equal(model.pos_embed, run.step.ema.pos_embed)


def test_state_dict_says_where_the_class_token_is(small_backbone, tmp_path):
    config = ModelConfig(backbone=small_backbone, image_size=8)
    source, model = build_model(config), build_model(config)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    for state in (source.state_dict(), copy.deepcopy(source).state_dict(), tmp_path / "weights.pt"):
        assert load_checkpoint(model, state) == ()
        assert torch.equal(model.pos_embed, source.pos_embed)
    assert load_checkpoint(model, dict(source.state_dict()), cls_position="head") == ()
    with pytest.raises(ConfigError, match=r"cls_position: is 'middle', but the source has its class token at the head"):
        load_checkpoint(model, source.state_dict(), cls_position="middle")


def test_state_dict_with_strange_metadata_counts_as_official(small_backbone):
    model = build_model(ModelConfig(backbone=small_backbone, image_size=8, cls_position="middle"))
    for metadata in (None, 3, {"": None}, {"": {"version": 1}}):
        state = model.state_dict()
        state._metadata = metadata
        assert load_checkpoint(model, state) == ()
