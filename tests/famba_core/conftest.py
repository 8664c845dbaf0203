"""A backbone small enough for naive twins, and one thread, so that tests neither crowd the machine nor vary with it."""

from collections.abc import Callable, Iterator

import pytest
import torch
from trainers import made_dataset, new_trainer

from famba_core.backbones import Backbone, register_backbone, unregister_backbone
from famba_core.training.trainer import Trainer


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_backbone() -> Iterator[str]:
    """16 channels, 4 layers, patches of 2 pixels."""
    register_backbone("small", Backbone(width=16, depth=4, state_size=4, patch_size=2))
    yield "small"
    unregister_backbone("small")


@pytest.fixture
def trainer(small_backbone: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainer]:
    """`trainers.new_trainer` on a made data set."""
    data = made_dataset()
    monkeypatch.setattr("famba_core.training.trainer.load_dataset", lambda config, image_size, seed: data)
    return new_trainer
