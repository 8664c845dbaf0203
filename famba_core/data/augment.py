"""Augmentation of a batch on its device: random numbers are drawn for all images together, then applied.

The recipe is that of Vim's training script, which is timm's: random resized crop, flip, random erasing, mixup and
cutmix (Zhong et al. 2017, Zhang et al. 2018, Yun et al. 2019), except that the parameters of mixup and cutmix are drawn
for each image. No shape depends on a random number and nothing waits for the device, so a training step can be captured
in a CUDA graph.

A box is (left, top, right, bottom) in fractions of the image's side; it is empty if right <= left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from famba_core.config import AugmentConfig
from famba_core.data.image_dataset import RGB

CROP_ASPECT = (3 / 4, 4 / 3)
ERASE_AREA = (0.02, 1 / 3)
ERASE_ASPECT = (0.3, 1 / 0.3)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random numbers of one batch. A field is None if the configuration switches its augmentation off."""

    crop: Tensor | None = None  # [B, 4] box that is kept
    flip: Tensor | None = None  # bool [B], True mirrors left to right
    erase: Tensor | None = None  # [B, 4] box that is replaced by noise
    noise: Tensor | None = None  # [B, 3, S, S], normal
    keep: Tensor | None = None  # [B] weight of the image itself outside of `cut`; the rest is its partner's
    cut: Tensor | None = None  # [B, 4] box taken from the partner


def augment(
    images: Tensor,
    labels: Tensor,
    *,
    config: AugmentConfig,
    image_size: int,
    num_classes: int,
    label_smoothing: float,
    mean: RGB,
    std: RGB,
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """Return an augmented batch: images float32 [B, 3, S, S] and targets float32 [B, num_classes], rows summing to 1.

    Args:
        images: uint8 [B, 3, H, H].
        labels: int64 [B].
        image_size: S, pixels.
        label_smoothing: fraction of each target that is spread evenly over all classes.
        mean, std: normalise pixels scaled to 0..1.
        generator: on the images' device; the only source of randomness, unused if `config` switches everything off.
    """
    draws = draw(len(images), config=config, image_size=image_size, generator=generator)
    views = erase(_normalise(crop_and_resize(images, draws, image_size), mean, std), draws)
    return mix(views, smooth_targets(labels, num_classes, label_smoothing), draws)


def prepare_evaluation(images: Tensor, *, config: AugmentConfig, image_size: int, mean: RGB, std: RGB) -> Tensor:
    """Return images uint8 [B, 3, H, H] resized to S / eval_crop, cropped to their centre and normalised.

    The result is float32 [B, 3, S, S].
    """
    resized = _resize(images.float(), round(image_size / config.eval_crop))
    margin = (resized.shape[-1] - image_size) // 2
    kept = slice(margin, margin + image_size)
    return _normalise(resized[:, :, kept, kept], mean, std)


def draw(batch: int, *, config: AugmentConfig, image_size: int, generator: Generator) -> Draws:
    """Draw the random numbers of `batch` images, on the generator's device."""
    crop = flip = erase = noise = keep = cut = None
    if config.crop_scale_min < 1:
        crop = _random_boxes(batch, (config.crop_scale_min, 1.0), CROP_ASPECT, generator)
    if config.flip:
        flip = _uniform((batch,), generator) < 0.5
    if config.random_erasing > 0:
        chosen = _uniform((batch, 1), generator) < config.random_erasing
        erase = torch.where(chosen, _random_boxes(batch, ERASE_AREA, ERASE_ASPECT, generator), 0.0)
        noise = torch.randn(batch, 3, image_size, image_size, generator=generator, device=generator.device)
    if config.mixup > 0 or config.cutmix > 0:
        keep, cut = _draw_mix(batch, config, generator)
    return Draws(crop=crop, flip=flip, erase=erase, noise=noise, keep=keep, cut=cut)


def crop_and_resize(images: Tensor, draws: Draws, image_size: int) -> Tensor:
    """Crop, flip and resize uint8 [B, 3, H, H] to float32 [B, 3, S, S] in 0..255."""
    if draws.crop is None:
        whole = _resize(images.float(), image_size)
        return whole if draws.flip is None else torch.where(draws.flip[:, None, None, None], whole.flip(-1), whole)
    left, top, right, bottom = draws.crop.unbind(1)
    if draws.flip is not None:
        left, right = torch.where(draws.flip, right, left), torch.where(draws.flip, left, right)
    centres = _pixel_centres(image_size, images.device)
    x = left[:, None] + (right - left)[:, None] * centres
    y = top[:, None] + (bottom - top)[:, None] * centres
    shape = (len(images), image_size, image_size)
    grid = 2 * torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), dim=-1) - 1
    crops = F.grid_sample(images.float(), grid, mode="bicubic", padding_mode="border", align_corners=False)
    return crops.clamp_(0, 255)  # cubic weights overshoot at edges


def erase(images: Tensor, draws: Draws) -> Tensor:
    """Replace the box of each image by noise, float32 [B, 3, S, S]."""
    if draws.erase is None or draws.noise is None:
        return images
    return torch.where(_inside(draws.erase, images.shape[-1]), draws.noise, images)


def mix(images: Tensor, targets: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Mix image i with image B - 1 - i, and the targets in proportion to the pixels."""
    if draws.keep is None or draws.cut is None:
        return images, targets
    own = torch.where(_inside(draws.cut, images.shape[-1]), 0.0, draws.keep[:, None, None, None])
    share = own.mean(dim=(1, 2, 3))[:, None]
    return torch.lerp(images.flip(0), images, own), torch.lerp(targets.flip(0), targets, share)


def smooth_targets(labels: Tensor, num_classes: int, label_smoothing: float) -> Tensor:
    """Return targets float32 [B, num_classes] of labels [B]: 1 - smoothing there, plus smoothing over all classes."""
    rest = label_smoothing / num_classes
    targets = torch.full((len(labels), num_classes), rest, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - label_smoothing + rest)


def _random_boxes(batch: int, area: tuple[float, float], aspect: tuple[float, float], generator: Generator) -> Tensor:
    """Draw boxes [B, 4] inside the image: area uniform, aspect (width / height) log-uniform.

    timm draws again until a box fits. Here the range of the aspect is cut to boxes that fit, which needs no loop and
    keeps the area uniform.
    """
    at = _uniform((4, batch), generator)
    areas = area[0] + (area[1] - area[0]) * at[0]
    most = -areas.log()
    lowest, highest = (-most).clamp(min=math.log(aspect[0])), most.clamp(max=math.log(aspect[1]))
    aspects = (lowest + (highest - lowest) * at[1]).exp()
    width, height = (areas * aspects).sqrt(), (areas / aspects).sqrt()
    left, top = at[2] * (1 - width), at[3] * (1 - height)
    return torch.stack((left, top, left + width, top + height), dim=1)


def _draw_mix(batch: int, config: AugmentConfig, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw `keep` and `cut` of Draws. If mixup and cutmix are both on, each image gets one or the other, evenly."""
    chance = 0.5 if config.mixup > 0 and config.cutmix > 0 else float(config.cutmix > 0)
    is_cut = _uniform((batch,), generator) < chance
    alpha = torch.where(is_cut, config.cutmix, config.mixup)
    # a Dirichlet of two is a Beta distribution; torch.distributions would draw from the global generator
    share = torch._sample_dirichlet(torch.stack((alpha, alpha), dim=1), generator)[:, 0]
    centre = _uniform((batch, 2), generator)
    reach = (1 - share).sqrt()[:, None] / 2
    box = torch.cat((centre - reach, centre + reach), dim=1)
    return torch.where(is_cut, 1.0, share), torch.where(is_cut[:, None], box, 0.0)


def _uniform(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _inside(boxes: Tensor, size: int) -> Tensor:
    """Return a mask bool [B, 1, size, size] of the pixels whose centres lie in each image's box."""
    centres = _pixel_centres(size, boxes.device)
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    columns = (centres >= left) & (centres < right)
    rows = (centres >= top) & (centres < bottom)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _pixel_centres(size: int, device: torch.device) -> Tensor:
    """Return the centres of the pixels [size], in fractions of the side."""
    return (torch.arange(size, device=device) + 0.5) / size


def _resize(images: Tensor, size: int) -> Tensor:
    """Resize float32 images in 0..255, bicubic with antialiasing; images of that size stay unchanged."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bicubic", antialias=True).clamp_(0, 255)


def _normalise(images: Tensor, mean: RGB, std: RGB) -> Tensor:
    return (images - _per_channel(mean, images) * 255) / (_per_channel(std, images) * 255)


def _per_channel(values: RGB, like: Tensor) -> Tensor:
    """Return [3, 1, 1], made on the device: a CUDA graph cannot capture a copy from the host."""
    return torch.stack([like.new_full((1, 1), value) for value in values])
