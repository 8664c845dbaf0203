"""Evaluator: accuracy of models whose predictions are known."""

import pytest
import torch
from tape import TapeRecorder
from torch import Tensor, nn

from famba_core import AugmentConfig, ModelConfig
from famba_core.data.image_dataset import ImageDataset, Split
from famba_core.training.cuda_graph import WARMUP_CALLS, GraphedFunction
from famba_core.training.evaluate import BATCH_SIZE, Evaluator


class ReadsTheAnswer(nn.Module):
    """Ranks its classes by distance from the image's brightness, which the test sets."""

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes
        self.shift = nn.Parameter(torch.zeros(()))
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        return -(images.mean((1, 2, 3), keepdim=False)[:, None] * 255 + self.shift - torch.arange(self.classes)).abs()


@pytest.mark.parametrize("count", [1, BATCH_SIZE, 2 * BATCH_SIZE + 3])
@pytest.mark.parametrize(("shift", "top1", "top5"), [(0, 100.0, 100.0), (1, 0.0, 100.0), (9, 0.0, 0.0)])
def test_accuracy_counts_every_image_once(count, shift, top1, top5):
    labels = torch.arange(count) % 10 + 10
    images = (labels + shift).to(torch.uint8)[:, None, None, None].expand(count, 3, 4, 4)
    split = Split(images=images, labels=labels)
    dataset = ImageDataset(train=split, test=split, num_classes=30, mean=(0.0,) * 3, std=(1.0,) * 3)
    model = ReadsTheAnswer(30)
    evaluate = Evaluator(
        model,
        split,
        dataset,
        config=ModelConfig(image_size=4, patch_size=2, num_classes=30),
        augmentation=AugmentConfig(eval_crop=1.0),
    )
    assert evaluate() == (top1, top5)
    assert model.modes == [False] * len(model.modes), "the model runs in evaluation mode"
    assert model.training, "and then returns to training mode"


def test_top5_of_fewer_than_five_classes_counts_every_image():
    split = Split(images=torch.full((2, 3, 4, 4), 2, dtype=torch.uint8), labels=torch.tensor([0, 2]))
    dataset = ImageDataset(train=split, test=split, num_classes=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    config = ModelConfig(image_size=4, patch_size=2, num_classes=3)
    evaluate = Evaluator(ReadsTheAnswer(3), split, dataset, config=config, augmentation=AugmentConfig(eval_crop=1.0))
    assert evaluate() == (50.0, 100.0)


@pytest.mark.parametrize("count", [4 * BATCH_SIZE, (WARMUP_CALLS + 2) * BATCH_SIZE + 3])
def test_replayed_batches_count_like_plain_ones_and_follow_the_weights(count, monkeypatch):
    recorder = TapeRecorder()
    monkeypatch.setattr(
        "famba_core.training.evaluate.wrap_in_graph",
        lambda function, device, *, name: GraphedFunction(function, recorder, name),
    )
    labels = torch.arange(count) % 10 + 10
    split = Split(images=labels.to(torch.uint8)[:, None, None, None].expand(count, 3, 4, 4), labels=labels)
    dataset = ImageDataset(train=split, test=split, num_classes=30, mean=(0.0,) * 3, std=(1.0,) * 3)
    model = ReadsTheAnswer(30)
    config = ModelConfig(image_size=4, patch_size=2, num_classes=30)
    evaluate = Evaluator(model, split, dataset, config=config, augmentation=AugmentConfig(eval_crop=1.0))
    for shift, expected in ((0.0, (100.0, 100.0)), (9.0, (0.0, 0.0)), (1.0, (0.0, 100.0)), (0.0, (100.0, 100.0))):
        with torch.no_grad():
            model.shift.fill_(shift)
        assert evaluate() == expected
    replays = 4 * (count // BATCH_SIZE) - WARMUP_CALLS
    assert recorder.did == ["warm up"] * WARMUP_CALLS + ["record"] + ["replay"] * replays
