"""Ten thousand trials: what the sweep itself costs in time, memory and files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TRIALS = 10_000


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
