"""Many simulated trials, as a process of its own: `python scale_study.py FOLDER TRIALS`; prints a JSON object.

The trainer reports from a surface and does nothing else, in a fork of a warm process: what is left is the cost
of the sweep itself.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from functools import partial
from pathlib import Path

from fake_training import fake_trial, plan_of, screen_of
from simulated.trainer import run_job

from sweep.executors.ray_tune.executor import RayExecutor
from sweep.plan.model import Plan
from sweep.run.runner import run_plan
from sweep.worker.job import warm_up


def plan(trials: int) -> Plan:
    return plan_of(*(fake_trial(seed, epochs=1) for seed in range(trials)))


def main(folder: Path, trials: int) -> None:
    import ray  # noqa: F401 - brings psutil along
    import psutil  # isort: skip

    process, peaks = psutil.Process(), {"driver": 0, "ray's process": 0}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            for child in process.children():
                peaks["ray's process"] = max(peaks["ray's process"], child.memory_info().rss)
            peaks["driver"] = max(peaks["driver"], process.memory_info().rss)

    threading.Thread(target=watch, daemon=True).start()
    planned, began = plan(trials), time.monotonic()
    executor = partial(RayExecutor, run=run_job, warm_up=warm_up)
    summary = run_plan(planned, folder, executor, listeners=[screen_of(planned)])
    seconds = time.monotonic() - began
    ended.set()
    print(
        json.dumps(
            {"completed": summary.completed, "seconds": seconds}
            | {f"{name}, peak MiB": round(peak / 2**20) for name, peak in peaks.items()}
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
