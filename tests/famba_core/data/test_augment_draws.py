"""The distributions of the random numbers of augmentation, over 20,000 images."""

import dataclasses
import math

import pytest
import torch
from scipy import stats

from famba_core.config import AugmentConfig
from famba_core.data.augment import draw, erase

OFF = AugmentConfig(crop_scale_min=1, flip=False, random_erasing=0, mixup=0, cutmix=0)


def generator():
    return torch.Generator().manual_seed(0)


def test_crops_lie_inside_with_uniform_areas_and_the_configured_aspects():
    config = dataclasses.replace(OFF, crop_scale_min=0.08)
    left, top, right, bottom = draw(20_000, config=config, image_size=8, generator=generator()).crop.double().unbind(1)
    assert min(left.min(), top.min()) >= 0
    assert max(right.max(), bottom.max()) <= 1 + 1e-6
    area, aspect = (right - left) * (bottom - top), (right - left) / (bottom - top)
    assert stats.kstest(area, stats.uniform(0.08, 0.92).cdf).pvalue > 1e-3
    free = area < 0.75  # there every aspect fits
    ends = math.log(3 / 4), math.log(4 / 3)
    assert stats.kstest(aspect[free].log(), stats.uniform(ends[0], ends[1] - ends[0]).cdf).pvalue > 1e-3
    places = torch.stack((left / (1 - (right - left)), top / (1 - (bottom - top))))[:, free]
    for place in places:
        assert stats.kstest(place, stats.uniform().cdf).pvalue > 1e-3
    independent = torch.corrcoef(torch.cat((places, area[free][None], aspect[free].log()[None])))
    assert (independent - torch.eye(4)).abs().max() < 0.03


def test_erasing_has_the_configured_probability_and_areas():
    config = dataclasses.replace(OFF, random_erasing=0.25)
    drawn = draw(20_000, config=config, image_size=4, generator=generator())
    left, top, right, bottom = drawn.erase.double().unbind(1)
    area = (right - left) * (bottom - top)
    hit = area > 0
    assert abs(hit.double().mean() - 0.25) < 0.01
    assert stats.kstest(area[hit], stats.uniform(0.02, 1 / 3 - 0.02).cdf).pvalue > 1e-3
    aspect = ((right - left) / (bottom - top))[hit]
    assert 0.3 - 1e-4 <= aspect.min() < 0.31
    assert 3.2 < aspect.max() <= 1 / 0.3 + 1e-4
    assert abs(drawn.noise.mean()) < 0.01
    assert abs(drawn.noise.std() - 1) < 0.01
    erased = erase(torch.full((20_000, 3, 4, 4), 9.0), drawn)
    assert ((erased != 9).flatten(1).any(dim=1) & ~hit).sum() == 0


def test_half_of_the_images_are_mirrored():
    drawn = draw(20_000, config=dataclasses.replace(OFF, flip=True), image_size=8, generator=generator())
    assert abs(drawn.flip.double().mean() - 0.5) < 0.01


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 0.5), (0.8, 1.0)])
def test_mixing_weights_follow_their_beta_distribution(mixup, cutmix):
    drawn = draw(
        20_000, config=dataclasses.replace(OFF, mixup=mixup, cutmix=cutmix), image_size=8, generator=generator()
    )
    is_cut = drawn.cut[:, 2] > drawn.cut[:, 0]
    assert abs(is_cut.double().mean() - (cutmix > 0) / (1 + (mixup > 0))) < 0.01
    assert torch.equal(drawn.keep[is_cut], torch.ones(int(is_cut.sum())))
    if mixup:
        assert stats.kstest(drawn.keep[~is_cut].double(), stats.beta(mixup, mixup).cdf).pvalue > 1e-3
    if cutmix:
        side = (drawn.cut[:, 2] - drawn.cut[:, 0])[is_cut].double()
        assert stats.kstest(1 - side**2, stats.beta(cutmix, cutmix).cdf).pvalue > 1e-3
        assert torch.allclose(side.float(), (drawn.cut[:, 3] - drawn.cut[:, 1])[is_cut], atol=1e-6)
