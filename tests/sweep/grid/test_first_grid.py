"""The first grid of an image folder: it loads, for every size of images and any number of them, on CPU and GPU."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from famba_core.config import AugmentConfig
from famba_core.data.folder_facts import FolderFacts
from famba_core.data.imagefolder import MARGIN, MOST_GIB
from sweep.grid.budget import schedule_on
from sweep.grid.first_grid import PROFILE, compose_grid
from sweep.grid.spec import SweepSpec, load_spec

OFF = AugmentConfig(crop_scale_min=1, flip=False, random_erasing=0, mixup=0, cutmix=0, eval_crop=1)


def facts(train: int, size: tuple[int, int] = (640, 480), **changed: Any) -> FolderFacts:
    found = FolderFacts(
        counts={"train": {"ant": train}, "val": {"ant": max(1, train // 5)}},
        sizes=Counter({size: train + max(1, train // 5)}),
        formats=Counter(),
        grey=False,
        problems=(),
    )
    return dataclasses.replace(found, **changed)


def load(tmp_path: Path, found: FolderFacts, gpu_gib: float | None = None, data_dir: str = "/ants") -> SweepSpec:
    grid = tmp_path / "ants.yaml"
    text = compose_grid(found, study="ants", file="ants.yaml", data_dir=data_dir, gpu_gib=gpu_gib)
    grid.write_text(text, encoding="utf-8")
    return load_spec(grid)


@pytest.mark.parametrize("gpu_gib", [None, 80.0])
def test_grids_of_all_image_sizes_remove_the_papers_share_exactly(tmp_path: Path, gpu_gib: float | None) -> None:
    for side in (1, 8, 9, 13, 14, 27, 28, 32, 55, 56, 96, 100, 111, 112, 128, 200, 224, 1000):
        spec = load(tmp_path, facts(3000, (side, side + 3)), gpu_gib)
        (model,) = spec.profiles[PROFILE].models
        totals = {sum(schedule_on(case, model.token_grid).schedule) for case in spec.cases}
        assert totals == {round(168 * model.num_patches / 196)}, side
        assert model.image_size <= max(12, side)
        assert 36 <= model.num_patches <= 256
        assert len(spec.cases) == 4
        assert spec.seeds == (0, 1, 2)


@pytest.mark.parametrize("images", [1, 2, 7, 8, 100, 1437, 5000, 50_000, 1_300_000])
@pytest.mark.parametrize("gpu_gib", [None, 8.0])
def test_grids_of_any_number_of_images_fit_them(tmp_path: Path, images: int, gpu_gib: float | None) -> None:
    profile = load(tmp_path, facts(images), gpu_gib).profiles[PROFILE]
    trained = profile.data.train_images or images
    assert profile.train.batch_size <= trained <= images
    assert profile.train.warmup_epochs < profile.train.epochs
    side = round(profile.models[0].image_size * MARGIN)
    assert (trained + images // 5) * 3 * side**2 <= min(MOST_GIB, (gpu_gib or 32) / 2) * 2**30


def test_photographs_get_the_papers_sizes_on_a_gpu_and_small_ones_on_a_cpu(tmp_path: Path) -> None:
    gpu = load(tmp_path, facts(50_000), 80).profiles[PROFILE]
    assert (gpu.models[0].backbone, gpu.models[0].image_size, gpu.models[0].patch) == ("vim_tiny", 224, 16)
    assert (gpu.train.batch_size, gpu.augment, gpu.resources.gpus_per_trial) == (128, AugmentConfig(), 1)
    cpu = load(tmp_path, facts(50_000)).profiles[PROFILE]
    assert (cpu.models[0].backbone, cpu.models[0].image_size, cpu.models[0].patch) == ("vim_micro", 64, 8)
    assert (cpu.data.train_images, cpu.resources.gpus_per_trial) == (5000, 0)


def test_tiny_and_grey_images_are_not_augmented(tmp_path: Path) -> None:
    for found in (facts(3000, (28, 28)), facts(3000, grey=True)):
        for gpu_gib in (None, 80.0):
            assert load(tmp_path, found, gpu_gib).profiles[PROFILE].augment == OFF


@pytest.mark.parametrize("path", ["/my pictures/#1: ants", '/"quoted"\\', "/été", "/{ants}"])
def test_any_folder_name_survives_the_file(tmp_path: Path, path: str) -> None:
    assert load(tmp_path, facts(100), data_dir=path).profiles[PROFILE].data.data_dir == path
