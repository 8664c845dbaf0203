"""Batched augmentation against a naive float64 one, pixel by pixel, with the same random numbers."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from famba_core.config import AugmentConfig
from famba_core.data.augment import Draws, augment, crop_and_resize, draw, mix, prepare_evaluation, smooth_targets

OFF = AugmentConfig(crop_scale_min=1, flip=False, random_erasing=0, mixup=0, cutmix=0, eval_crop=1)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
B = 6


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def some_images(size=9, batch=B):
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator(1))


def run(config, images, size, *, seed=0, smoothing=0.1):
    labels = torch.arange(len(images)) % 10
    return augment(
        images,
        labels,
        config=config,
        image_size=size,
        num_classes=10,
        label_smoothing=smoothing,
        mean=MEAN,
        std=STD,
        generator=generator(seed),
    )


def cubic(distance, a=-0.75):
    """Keys's kernel with the constant of torch's grid_sample."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def naive_view(image, box, mirrored, size):
    """Return [3, size, size] of [3, H, H] float64: every pixel is the cubic mean of the sixteen around its place."""
    height = image.shape[-1]
    left, top, right, bottom = box
    result = np.zeros((3, size, size))
    for row in range(size):
        for column in range(size):
            from_left = size - 1 - column if mirrored else column
            x = (left + (right - left) * (from_left + 0.5) / size) * height - 0.5
            y = (top + (bottom - top) * (row + 0.5) / size) * height - 0.5
            for j in range(math.floor(y) - 1, math.floor(y) + 3):
                for i in range(math.floor(x) - 1, math.floor(x) + 3):
                    pixel = image[:, min(max(j, 0), height - 1), min(max(i, 0), height - 1)]
                    result[:, row, column] += cubic(y - j) * cubic(x - i) * pixel
    return result.clip(0, 255)


def naive_inside(box, size, row, column):
    left, top, right, bottom = box
    return left <= (column + 0.5) / size < right and top <= (row + 0.5) / size < bottom


def naive_augment(images, labels, draws, size, smoothing):
    """Return the result of `augment` for the given draws."""
    draws = {field.name: getattr(draws, field.name).double().numpy() for field in dataclasses.fields(draws)}
    mean, std = (np.array(values)[:, None, None] for values in (MEAN, STD))
    erased, targets = [], []
    for n, image in enumerate(images.double().numpy()):
        new = (naive_view(image, draws["crop"][n], draws["flip"][n], size) / 255 - mean) / std
        for row, column in np.ndindex(size, size):
            if naive_inside(draws["erase"][n], size, row, column):
                new[:, row, column] = draws["noise"][n, :, row, column]
        erased.append(new)
        targets.append([smoothing / 10 + (1 - smoothing) * (labels[n] == k) for k in range(10)])
    mixed, mixed_targets = [], []
    for n, image in enumerate(erased):
        partner = len(erased) - 1 - n
        new, own = image.copy(), 0.0
        for row, column in np.ndindex(size, size):
            weight = 0 if naive_inside(draws["cut"][n], size, row, column) else draws["keep"][n]
            new[:, row, column] = weight * image[:, row, column] + (1 - weight) * erased[partner][:, row, column]
            own += weight / size**2
        mixed.append(new)
        mixed_targets.append(own * np.array(targets[n]) + (1 - own) * np.array(targets[partner]))
    return np.stack(mixed), np.stack(mixed_targets)


@pytest.mark.parametrize("size", [9, 14])
def test_whole_batch_equals_the_naive_one(size):
    config = AugmentConfig(random_erasing=0.6)
    images, labels = some_images(), torch.arange(B) % 10
    draws = draw(B, config=config, image_size=size, generator=generator(3))
    assert draws.flip.any()
    assert not draws.flip.all()
    assert 0 < (draws.keep == 1).sum() < B  # both cutmix and mixup are in the batch
    expected, expected_targets = naive_augment(images, labels.numpy(), draws, size, smoothing=0.1)
    got, targets = run(config, images, size, seed=3)
    assert got.dtype == targets.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-4)
    np.testing.assert_allclose(targets.numpy(), expected_targets, atol=1e-6)


def test_full_box_leaves_the_image_unchanged():
    images = some_images()
    whole = Draws(crop=torch.tensor([[0.0, 0, 1, 1]]).expand(B, 4))
    # 1e-5 of the range from black to white
    torch.testing.assert_close(crop_and_resize(images, whole, 9) / 255, images / 255, atol=1e-5, rtol=0)


@pytest.mark.parametrize("crop", [None, torch.tensor([[0.0, 0, 1, 1]]).expand(B, 4)])
def test_flip_mirrors_left_to_right(crop):
    images = some_images()
    flip = torch.arange(B) % 2 == 0
    got = crop_and_resize(images, Draws(crop=crop, flip=flip), 9)
    torch.testing.assert_close(got[flip], images[flip].flip(-1).float(), atol=3e-3, rtol=0)
    torch.testing.assert_close(got[~flip], images[~flip].float(), atol=3e-3, rtol=0)


def test_everything_switched_off_changes_and_draws_nothing():
    images = some_images()
    used = generator(5)
    got, targets = augment(
        images,
        torch.arange(B),
        config=OFF,
        image_size=9,
        num_classes=10,
        label_smoothing=0,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        generator=used,
    )
    torch.testing.assert_close(got, images / 255, atol=1e-6, rtol=0)
    assert torch.equal(targets, torch.eye(10)[:B])
    assert torch.equal(used.get_state(), generator(5).get_state())


def test_batch_depends_on_the_seed_and_not_on_the_global_generator():
    images = some_images()
    torch.manual_seed(1)
    first, first_targets = run(AugmentConfig(), images, 9, seed=7)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again, again_targets = run(AugmentConfig(), images, 9, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert torch.equal(first_targets, again_targets)
    other, _ = run(AugmentConfig(), images, 9, seed=8)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("option", ["crop_scale_min", "flip", "random_erasing", "mixup", "cutmix"])
def test_each_option_alone_changes_the_batch_and_draws_only_its_own_numbers(option):
    config = dataclasses.replace(OFF, **{option: getattr(AugmentConfig(), option)})
    drawn = draw(B, config=config, image_size=9, generator=generator(2))
    names = {field.name for field in dataclasses.fields(drawn) if getattr(drawn, field.name) is not None}
    assert (
        names
        == {
            "crop_scale_min": {"crop"},
            "flip": {"flip"},
            "random_erasing": {"erase", "noise"},
            "mixup": {"keep", "cut"},
            "cutmix": {"keep", "cut"},
        }[option]
    )
    batch = some_images(batch=32)
    assert not torch.equal(run(config, batch, 9)[0], run(OFF, batch, 9)[0])


def test_cutmix_weighs_targets_by_the_replaced_pixels():
    """A box over the edge of the image replaces fewer pixels than its area."""
    images = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    draws = Draws(keep=torch.ones(2), cut=torch.tensor([[-0.5, -0.25, 0.5, 0.25], [0.25, 0.0, 0.5, 1.0]]))
    mixed, targets = mix(images, torch.eye(2), draws)
    assert torch.equal(mixed[0, 0], torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    assert torch.equal(mixed[1, 0], torch.tensor([[1.0, 0, 1, 1]] * 4))
    assert torch.allclose(targets, torch.tensor([[14 / 16, 2 / 16], [4 / 16, 12 / 16]]))


def test_rows_of_targets_sum_to_one():
    _, targets = run(AugmentConfig(), some_images(batch=500), 9)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(500))
    assert targets.min() >= 0.1 / 10 - 1e-6


def test_label_smoothing_has_the_closed_form():
    assert torch.allclose(smooth_targets(torch.tensor([2]), 4, 0.2), torch.tensor([[0.05, 0.05, 0.85, 0.05]]))


@pytest.mark.parametrize(("native", "size", "eval_crop"), [(16, 28, 0.875), (40, 28, 0.875), (9, 16, 1.0)])
def test_evaluation_resizes_as_pillow_and_crops_to_the_centre(native, size, eval_crop):
    images = some_images(native)
    got = prepare_evaluation(
        images, config=dataclasses.replace(OFF, eval_crop=eval_crop), image_size=size, mean=MEAN, std=STD
    )
    full = round(size / eval_crop)
    margin = (full - size) // 2
    for image, result in zip(images, got, strict=True):
        for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
            grey = Image.fromarray(image[channel].numpy().astype(np.float32))
            resized = np.asarray(grey.resize((full, full), Image.Resampling.BICUBIC)).clip(0, 255)
            middle = resized[margin : margin + size, margin : margin + size]
            np.testing.assert_allclose(result[channel].numpy(), (middle / 255 - mean) / std, atol=2e-4)


def test_evaluation_leaves_an_image_of_the_right_size_unchanged():
    images = some_images()
    got = prepare_evaluation(images, config=OFF, image_size=9, mean=(0, 0, 0), std=(1, 1, 1))
    torch.testing.assert_close(got, images / 255, atol=1e-6, rtol=0)


class DeviceWaits(TorchDispatchMode):
    """Collector of operations that make the host wait, or whose result has a shape that depends on values."""

    FORBIDDEN = frozenset(
        {
            "_local_scalar_dense",
            "is_nonzero",
            "nonzero",
            "masked_select",
            "index",
            "index_put_",
            "_unique2",
            "repeat_interleave",
            "equal",
        }
    )

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.FORBIDDEN:
            self.found.add(name)
        return func(*args, **(kwargs or {}))


def test_augmentation_never_waits_for_the_device():
    images = some_images()
    with DeviceWaits() as mode:
        run(AugmentConfig(), images, 14)
        run(dataclasses.replace(AugmentConfig(), crop_scale_min=1), images, 14)
        prepare_evaluation(images, config=AugmentConfig(), image_size=14, mean=MEAN, std=STD)
    assert mode.found == set()
    with DeviceWaits() as mode:
        images[images[:, 0, 0, 0] > 3].sum().item()
    assert mode.found == {"index", "_local_scalar_dense"}
