"""Ten thousand trials: what the sweep itself costs in time, memory and files."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_study import curve, result

from sweep.grid.spec import load_spec
from sweep.plan.build import make_plan
from sweep.plan.plan_file import save_plan
from sweep.price.device import find_pool_device
from sweep.store.study import write_result

HERE = Path(__file__).parents[2] / "support"
TRIALS = 10_000
CASES = [f"{{strategy: upper, start_layer: {start}, r: {r}}}" for start in range(4, 22) for r in range(3, 9)][:99]
GRID = f"""
study: scale
baselines: [{{strategy: none}}]
cases: [{", ".join(CASES)}]
seeds: {list(range(TRIALS // 100))}
profiles:
  laptop: {{backbone: vim_nano, dataset: digits, train_images: 64, image_size: 14, patch_size: 1, epochs: 1,
           batch_size: 64, ema: false}}
"""


def timed(*command: str | Path) -> tuple[float, str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    began = time.monotonic()
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return time.monotonic() - began, done.stdout


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_thousand_trials(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    study = tmp_path / "study"
    _, output = timed(HERE / "scale_study.py", study, str(TRIALS))
    figures = json.loads(output.splitlines()[-1])
    assert figures["completed"] == TRIALS
    resume, output = timed(HERE / "scale_study.py", study, str(TRIALS))
    assert json.loads(output.splitlines()[-1])["completed"] == TRIALS
    status, output = timed("-m", "sweep.cli", "status", study)
    assert f"{TRIALS} trials planned: {TRIALS} completed" in output
    compacting, output = timed("-m", "sweep.cli", "compact", study)
    files = sum(len(names) for _, _, names in os.walk(study))
    status_after, output = timed("-m", "sweep.cli", "status", study)
    assert f"{TRIALS} trials planned: {TRIALS} completed" in output
    resume_after, output = timed(HERE / "scale_study.py", study, str(TRIALS))
    assert json.loads(output.splitlines()[-1])["completed"] == TRIALS
    with capsys.disabled():
        print(f"\n{1e3 * figures['seconds'] / TRIALS:.1f} ms a trial, {figures}")
        print(f"resume {resume:.1f} s, status {status:.1f} s; compact {compacting:.1f} s, to {files} files")
        print(f"then status {status_after:.1f} s, resume {resume_after:.1f} s")
    assert figures["seconds"] / TRIALS < 0.05
    assert figures["driver, peak MiB"] < 1024
    assert max(resume, resume_after) < 10
    assert max(status, status_after) < 3
    assert files < 2 * TRIALS


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_command_resumes_a_grid_of_ten_thousand_trials(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """From `famba-sweep GRID` to the one trial that is missing: the plan, what is stored, the price, the queue."""
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID)
    plan = make_plan(load_spec(grid), "laptop")
    assert len(plan.trials) == TRIALS
    study, device = tmp_path / "out" / "scale-laptop", find_pool_device(plan, address=None)
    now = dt.datetime.now(dt.UTC)
    save_plan(study, plan)
    for trial in plan.trials[:-1]:
        row = result(trial, top1_best_pct=90.0, top1_pct=90.0, train_time_s=1.0, peak_memory_mib=100.0, finished_at=now)
        write_result(study, replace(row, device_name=device.name), curve(row))

    command = [sys.executable, "-um", "sweep.cli", grid, "--executor", "in-process", "--profile", "laptop"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    begins = []
    for compacted in (False, True):
        began = time.monotonic()
        with subprocess.Popen(
            [*command, "--out", tmp_path / "out"], env=environment, stdout=subprocess.PIPE, text=True
        ) as run:
            assert run.stdout
            times = {line.strip(): time.monotonic() - began for line in run.stdout}
        assert run.returncode == 0
        begins.append(times[f"1 of {TRIALS} trials to train, 1 at a time"])
        with capsys.disabled():
            ended = next(seconds for line, seconds in times.items() if f"{TRIALS}/{TRIALS} done" in line)
            print(f"\n{begins[-1]:.1f} s to the first trial, {max(times.values()) - ended:.1f} s for the report")
        if not compacted:
            (study / "trials" / f"{plan.trials[-1].trial_id}.1.parquet").unlink()
            timed("-m", "sweep.cli", "compact", study)
    assert max(begins) < 10
