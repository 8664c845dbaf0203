"""Stored results of the same device correct predicted times; other results do not."""

import dataclasses
import os

import pytest
from fake_training import fake_measure
from synthetic_study import result, save, table_plan

from famba_core.config import DataConfig
from sweep.price import training_time
from sweep.price.device import PoolDevice
from sweep.price.estimate import price_plan
from sweep.price.training_time import Calibration, calibrate, device_seconds
from sweep.store.study import write_measurement

TRIALS = table_plan(2).trials[:10]
DIGITS = DataConfig(dataset="digits")
IMAGES = 1437
CPU = PoolDevice(gpu=False, name="Imaginary CPU", memory_gib=None, count=None)


def predicted(trial, device, images=IMAGES):
    """Return predicted device seconds without averaged weights, because the rows below have no accuracy of them."""
    return device_seconds(
        device, trial.model, trial.fusion.schedule, dataclasses.replace(trial.train, ema=False),
        images=images, threads=trial.cpus_per_trial,
    )  # fmt: skip


def took(trial, factor, device=CPU, images=IMAGES, **columns):
    """Return a row of a trial that took `factor` times as long as predicted."""
    share = columns.get("gpus_per_trial", trial.gpus_per_trial) or trial.cpus_per_trial
    row = result(trial, train_time_s=factor * predicted(trial, device, images) / share)
    return dataclasses.replace(row, **columns)


def study(folder, *rows):
    save(folder, rows)
    (folder / "plan.json").write_text("{}")


def about(factor):
    """Compare loosely: rows do not hold the number of classes, which changes a prediction by less than a thousandth."""
    return pytest.approx(factor, rel=1e-3)


def calibrated(results, device=CPU, data=DIGITS):
    return calibrate(results, device, data, data.train_images or IMAGES)


def test_the_factor_is_the_median_and_the_range_the_quantiles(tmp_path):
    factors = [1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4, 2.6, 3.0]
    rows = [took(trial, factor) for trial, factor in zip(TRIALS, factors, strict=True)]
    study(tmp_path / "one", *rows[:6])
    study(tmp_path / "two", *rows[6:])
    found = calibrated(tmp_path)
    assert found.rows == 10
    # linear between the order statistics: the 10th percentile of ten values is 0.9 on the way from the first
    assert (found.low, found.factor, found.high) == (
        about(1.18), about(1.9), about(2.64),
    )  # fmt: skip
    assert "range from 10 stored rows" in found.sentence


def test_a_configuration_that_is_stored_is_priced_by_its_own_times(tmp_path):
    """So is one that differs in its seed or in its number of epochs alone."""
    trials = [dataclasses.replace(trial, train=dataclasses.replace(trial.train, ema=False)) for trial in TRIALS]
    rows = [took(trial, factor) for trial, factor in zip(trials, (1.0, 1.2, 4.0), strict=False)]
    study(tmp_path / "one", *rows)
    found = calibrated(tmp_path)
    assert found.factor == about(1.2)
    more = dataclasses.replace(trials[2].train, seed=7, epochs=3)
    assert found.find(dataclasses.replace(trials[2], train=more)).ratio == about(4.0)
    assert found.find(trials[2]).peak_mib == rows[2].peak_memory_mib
    assert found.find(trials[3]) is None
    for change in ({"batch_size": 7}, {"ema": True}, {"recompute": True}, {"precision": "bf16"}):
        assert found.find(dataclasses.replace(trials[2], train=dataclasses.replace(more, **change))) is None
    recomputing = dataclasses.replace(trials[4], train=dataclasses.replace(trials[4].train, recompute=True))
    save(tmp_path / "one", [took(recomputing, 3.0, recompute=True)])
    found = calibrated(tmp_path)
    assert found.find(recomputing).ratio == about(3.0)
    assert found.find(trials[4]) is None
    plan = dataclasses.replace(table_plan(2), trials=tuple(trials), cases=())
    before, after = (price_plan(plan, CPU, each).trials for each in (Calibration(factor=found.factor), found))
    slow, other = trials[2].trial_id, trials[3].trial_id
    assert after[slow].train_hours == pytest.approx(before[slow].train_hours * 4 / found.factor, rel=1e-2)
    assert after[other].train_hours == before[other].train_hours
    assert (after[slow].measuring_hours, after[other].measuring_hours > 0) == (
        0,
        True,
    )  # what is stored is not measured


def test_a_configuration_that_is_only_measured_is_priced_by_its_measurement(tmp_path):
    trials = [dataclasses.replace(trial, train=dataclasses.replace(trial.train, ema=False)) for trial in TRIALS]

    def measurement(trial, factor):
        steps = IMAGES // trial.train.batch_size
        step_s = factor * predicted(trial, CPU) / trial.cpus_per_trial / steps / trial.train.epochs
        row = fake_measure(tmp_path / "log")(trial)
        return dataclasses.replace(row, device_name=CPU.name, steps_per_epoch=steps, step_time_ms=1000 * step_s)

    def found():
        return calibrate(tmp_path, CPU, DIGITS, IMAGES, trials)

    study(tmp_path / "one")
    for trial, factor in zip(trials, (2.0, 3.0, 5.0), strict=False):
        write_measurement(tmp_path / "one", measurement(trial, factor))
    assert found().find(trials[2]).ratio == about(5.0)
    assert (found().factor, found().low) == (about(3.0), about(2.0))
    assert "only 3 stored measurements of this device" in found().sentence
    # a result says that training takes 1.5 times as long as measured
    save(tmp_path / "one", [took(trials[0], 3.0)])
    assert found().find(trials[0]).ratio == about(3.0)
    assert found().find(trials[2]).ratio == about(7.5)
    assert found().factor == about(3.0)


def test_own_images_are_known_by_the_trials_ids(tmp_path):
    images = DataConfig(dataset="imagefolder")
    own = [dataclasses.replace(trial, data=images) for trial in TRIALS]
    study(tmp_path / "one", took(own[0], 2.0, dataset="imagefolder"))
    assert calibrate(tmp_path, CPU, images, IMAGES).rows == 0
    assert calibrate(tmp_path, CPU, images, IMAGES, own).factor == about(2.0)


def test_without_rows_the_range_is_a_factor_of_two_either_way(tmp_path):
    assert calibrated(tmp_path / "nowhere") == Calibration() == Calibration(factor=1.0, low=0.5, high=2.0, rows=0)
    study(tmp_path / "empty")
    assert calibrated(tmp_path) == Calibration()


def test_with_two_rows_the_range_is_a_factor_of_one_and_a_half(tmp_path):
    study(tmp_path / "one", took(TRIALS[0], 2.0), took(TRIALS[1], 4.0))
    found = calibrated(tmp_path)
    assert (found.factor, found.low, found.high) == (about(3), about(2), about(4.5))
    assert "only 2 stored rows" in found.sentence


def test_rows_of_other_devices_failures_and_copies_are_ignored(tmp_path):
    other = took(TRIALS[0], 9.0, device_name="Another CPU")
    failed = dataclasses.replace(took(TRIALS[1], 9.0), status="failed", error="x")
    pruned = dataclasses.replace(took(TRIALS[2], 9.0), status="pruned")
    copied = took(TRIALS[3], 9.0, source="one/x.1")
    study(tmp_path / "one", other, failed, pruned, copied, took(TRIALS[4], 1.5))
    found = calibrated(tmp_path)
    assert (found.rows, found.factor) == (1, about(1.5))


def test_gpus_are_recognized_by_the_name_of_their_type(tmp_path):
    a100 = PoolDevice(gpu=True, name="A100-80G", memory_gib=None, count=None)
    quarter = took(TRIALS[0], 2.0, a100, device_name="NVIDIA A100-SXM4-80GB", gpus_per_trial=0.25)
    study(tmp_path / "one", quarter, took(TRIALS[1], 5.0, a100, device_name="NVIDIA H100 PCIe", gpus_per_trial=1.0))
    found = calibrated(tmp_path, a100)
    assert (found.rows, found.factor) == (1, about(2.0))
    assert calibrated(tmp_path, dataclasses.replace(a100, name=None)).rows == 0


def test_rows_with_an_unknown_number_of_images_are_ignored(tmp_path):
    part = took(TRIALS[0], 2.0, images=500, dataset="imagefolder", train_images=500)
    whole = took(TRIALS[1], 7.0, dataset="imagefolder")
    study(tmp_path / "one", part, whole)
    found = calibrated(tmp_path)
    assert (found.rows, found.factor) == (1, about(2.0))
    # nor is the plan's own folder that of the rows
    found = calibrated(tmp_path, data=DataConfig(dataset="imagefolder"))
    assert (found.rows, found.factor) == (1, about(2.0))
    # digits are on every machine, also where the plan trains on a part of them
    study(tmp_path / "two", took(TRIALS[2], 4.0))
    found = calibrated(tmp_path, data=DataConfig(dataset="digits", train_images=64))
    assert (found.rows, found.factor) == (2, about(3.0))


@pytest.mark.parametrize("columns", [{"backbone": "vim_large"}, {"precision": "fp8"}])
def test_rows_of_newer_versions_are_ignored(tmp_path, columns):
    study(tmp_path / "newer", dataclasses.replace(took(TRIALS[0], 9.0), **columns))
    study(tmp_path / "one", took(TRIALS[1], 2.0))
    found = calibrated(tmp_path)
    assert (found.rows, found.factor) == (1, about(2.0))


def test_an_unreadable_study_of_another_user_is_ignored(tmp_path, monkeypatch):
    """The errors are simulated, because root may read everything."""
    for name in ("closed", "locked", "open"):
        study(tmp_path / name, took(TRIALS[0], 2.0))
    stat, read = os.stat, training_time.read_rows

    def closed(path, *arguments, **options):
        if "closed" in str(path):
            raise PermissionError(path)
        return stat(path, *arguments, **options)

    def locked(folder, **options):
        if folder.name == "locked":
            raise PermissionError(folder)
        return read(folder, **options)

    monkeypatch.setattr(os, "stat", closed)
    monkeypatch.setattr(training_time, "read_rows", locked)
    assert calibrated(tmp_path).rows == 1


def test_a_damaged_study_is_ignored(tmp_path):
    study(tmp_path / "good", took(TRIALS[0], 2.0))
    study(tmp_path / "bad", took(TRIALS[1], 3.0))
    (part,) = (tmp_path / "bad" / "trials").glob("*.parquet")
    part.write_bytes(b"torn")
    assert calibrated(tmp_path).rows == 1
    assert part.read_bytes() == b"torn"
