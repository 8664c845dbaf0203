"""What makes two trials the same: beside settings, the data's content and the version of what settings mean."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from famba_core import semantics
from famba_core.config import FusionSchedule
from famba_core.data import file_cache
from famba_core.data.datasets import describe_dataset
from sweep.files.names import is_safe_name
from sweep.grid.spec import load_spec
from sweep.plan.build import make_plan
from sweep.plan.identity import measure_id, rung_group, trial_id

GRID = """
study: a_study
reference_patches: 196
cases: [{strategy: none}]
profiles:
  photos: {backbone: vim_nano, dataset: imagefolder, image_size: 32, epochs: 1, warmup_epochs: 0}
  laptop: {backbone: vim_nano, dataset: digits, image_size: 8, patch_size: 1, epochs: 1, warmup_epochs: 0}
"""


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "images" / split / name / "0.png")
    return tmp_path / "images"


def planned(images: Path, profile: str = "photos"):
    grid = images.parent / "grid.yaml"
    grid.write_text(GRID)
    return make_plan(load_spec(grid), profile, data_dir=str(images)).trials[0]


def test_another_image_makes_another_trial(images):
    before = planned(images)
    assert before.data_fingerprint
    added = images / "train" / "ant" / "1.png"
    Image.new("RGB", (8, 8)).save(added)
    after = planned(images)
    assert after.trial_id != before.trial_id
    assert measure_id(after) != measure_id(before), "an epoch has as many steps as its images make"
    added.rename(added.with_name("2.png"))
    assert planned(images).trial_id not in (before.trial_id, after.trial_id)
    (images / "train" / "ant" / "2.png").unlink()
    assert planned(images).trial_id == before.trial_id
    Image.new("RGB", (80, 80), (1, 2, 3)).save(images / "val" / "bee" / "0.png")
    assert planned(images).trial_id != before.trial_id


def test_a_moved_folder_makes_the_same_trial(images):
    before = planned(images)
    moved = images.rename(images.parent / "moved")
    after = planned(moved)
    assert after.trial_id == before.trial_id
    assert after.data.data_dir != before.data.data_dir


def test_another_version_of_what_settings_mean_makes_another_trial(images, monkeypatch):
    before = [planned(images, profile).trial_id for profile in ("photos", "laptop")]
    monkeypatch.setattr(semantics, "VERSION", 2)
    second = [planned(images, profile).trial_id for profile in ("photos", "laptop")]
    monkeypatch.setattr(semantics, "VERSION", 3)
    third = [planned(images, profile).trial_id for profile in ("photos", "laptop")]
    assert len({*before, *second, *third}) == 6


def test_settings_without_effect_make_no_other_trial(images):
    trial = planned(images)
    for ema, same in ((False, True), (True, False)):
        one, other = (replace(trial, train=replace(trial.train, ema=ema, ema_decay=decay)) for decay in (0.9, 0.99996))
        assert (trial_id(one) == trial_id(other)) is same


def test_a_part_of_the_test_images_makes_another_trial_and_none_the_same_as_before(images):
    trial = planned(images, "laptop")
    assert trial.trial_id == trial_id(replace(trial, data=replace(trial.data, test_images=None)))
    part = replace(trial, data=replace(trial.data, test_images=100))
    assert len({function(one) for function in (trial_id, rung_group) for one in (trial, part)}) == 4
    grid = images.parent / "grid.yaml"
    for size, expected in ((360, None), (359, 359)):
        grid.write_text(GRID.replace("dataset: digits,", f"dataset: digits, test_images: {size},"))
        (planned_one,) = make_plan(load_spec(grid), "laptop").trials
        assert planned_one.data.test_images == expected
        assert (planned_one.trial_id == trial.trial_id) is (expected is None)


def test_digits_need_no_fingerprint(images):
    assert planned(images, "laptop").data_fingerprint is None


def test_contents_name_files_wherever_they_lie(images, monkeypatch):
    files = [images / "a", images / "b"]
    for file in files:
        file.write_bytes(file.name.encode() * 100)
    first = file_cache.fingerprint_files(files)
    assert first == file_cache.fingerprint_files([Path(shutil.copy(file, f"{file}-copy")) for file in files])
    assert first != file_cache.fingerprint_files(files[::-1])
    monkeypatch.setattr(file_cache, "_sha256", lambda file: pytest.fail("it is in the cache"))
    assert file_cache.fingerprint_files(files) == first
    monkeypatch.undo()
    files[1].write_bytes(b"other")
    assert file_cache.fingerprint_files(files) != first


def test_a_cifar_100_of_another_content_has_another_fingerprint(images):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from famba_core.config import DataConfig

    folder = images / "cifar100"
    folder.mkdir()
    config = DataConfig(dataset="cifar100", data_dir=str(images))

    def described(label):
        for split in ("train", "test"):
            table = pa.table({"img": [{"bytes": b"x"}], "fine_label": [label]})
            pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
        return describe_dataset(config).fingerprint

    first = described(1)
    assert described(2) != first
    assert described(1) == first


def test_another_meaning_of_settings_makes_another_measurement(images, monkeypatch):
    before = measure_id(planned(images, "laptop"))
    monkeypatch.setattr(semantics, "VERSION", 2)
    assert measure_id(planned(images, "laptop")) != before


def test_trials_compare_at_a_rung_if_only_fusion_and_seed_differ(images, monkeypatch):
    trial = planned(images)
    same = [
        replace(trial, fusion=FusionSchedule(schedule=(1,) * 24, order="raster", weighting="size")),
        replace(trial, train=replace(trial.train, seed=5)),
        replace(trial, cpus_per_trial=9, gpus_per_trial=1.0, trial_id="x", study="y"),
    ]
    assert {rung_group(one) for one in same} == {rung_group(trial)}
    other = [
        replace(trial, train=replace(trial.train, epochs=7)),
        replace(trial, train=replace(trial.train, lr=0.5)),
        replace(trial, train=replace(trial.train, batch_size=3)),
        replace(trial, augment=replace(trial.augment, mixup=0.1)),
        replace(trial, data=replace(trial.data, train_images=2)),
        replace(trial, data_fingerprint="another"),
        replace(trial, model=replace(trial.model, image_size=64)),
    ]
    assert len({rung_group(one) for one in (trial, *other)}) == 1 + len(other)
    assert is_safe_name(rung_group(trial))
    before = rung_group(trial)
    monkeypatch.setattr(semantics, "VERSION", 2)
    assert rung_group(trial) != before
