"""A study for injected faults: trials with simulated epochs, in a process of its own that a test may kill.

python fault_study.py FOLDER [--executor ray] [--fault NAME] [--epoch-s SECONDS]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import types
import unittest.mock
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fake_training import FakeTrainer, fake_trial, plan_of, screen_of, starts

from sweep.errors import UserError
from sweep.executors.base import ExecutorFactory, Finished, Job, Lost
from sweep.grid.resources import Pool
from sweep.plan.model import Plan, Trial
from sweep.run.runner import RunSummary, run_plan
from sweep.store.study import read_rows
from sweep.worker.job import run_job, warm_up

HERE = Path(__file__).parent
EPOCHS = 4
TRIALS = 4


def study(seeds: Sequence[int] = range(TRIALS), *, gpus: float = 0, **pool: Any) -> Plan:
    plan = plan_of(*(fake_trial(seed, epochs=EPOCHS, gpus=gpus) for seed in seeds))
    return replace(plan, pool=Pool(**pool))


def faulty_job(job: Job, folder: Path) -> Generator[Any, None, Finished | Lost]:
    """Run a job with the fake trainer, without measuring. Ray's workers import this function."""
    FakeTrainer.epoch_s = float(os.environ.get("FAULT_EPOCH_S", "0"))
    return (yield from run_job(job, folder, make_trainer))


def make_trainer(trial: Trial, checkpoint: Path) -> Any:
    return FakeTrainer(fusion=trial.fusion, train=trial.train, checkpoint=checkpoint)


def executor_factory(name: str) -> ExecutorFactory:
    if name == "ray":
        from sweep.executors.ray_tune.executor import RayExecutor

        return partial(RayExecutor, run=faulty_job, warm_up=warm_up)
    from sweep.executors.local import LocalExecutor

    return partial(LocalExecutor, run=faulty_job)


def run(folder: Path, plan: Plan | None = None, executor: str | ExecutorFactory = "here", **options: Any) -> RunSummary:
    plan = plan or study()
    factory = executor_factory(executor) if isinstance(executor, str) else executor
    with unittest.mock.patch("sweep.run.measuring.MeasuringPhase.run"):  # simulated epochs cannot be measured
        return run_plan(plan, folder, factory, listeners=[screen_of(plan)], **options)


def stored(folder: Path) -> dict[str, bytes]:
    """Return the content of the parts of finished trials, by file name."""
    return {part.name: part.read_bytes() for part in (folder / "trials").glob("[!.]*.parquet")}


def cost(folder: Path, before: dict[str, bytes], starts_before: int) -> dict[str, int]:
    """Return how many of the trials that were finished `before` have changed, and how many ran again."""
    now = stored(folder)
    rows, damaged = read_rows(folder)
    assert not damaged
    assert not rows.duplicated(["trial_id", "attempt"]).any()
    again = {line.split()[0] for line in starts(folder)[starts_before:]}
    return {
        "lost": sum(now.get(name) != data for name, data in before.items()),
        "repeated": sum(name.split(".")[0] in again for name in before),
    }


def launch(folder: Path, *options: str, epoch_s: float = 0.1, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start the study as a process in a session of its own."""
    return subprocess.Popen(
        [*prefix, sys.executable, str(HERE / "fault_study.py"), str(folder), *options],
        env=os.environ
        | {
            "FAULT_EPOCH_S": str(epoch_s),
            "FAULT_STUDY": str(folder),
            "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
        },
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], timeout_s: float = 150) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate()[0])
        time.sleep(0.01)


def _kill_at(call: int, name: str) -> None:
    """Kill this process, as kill -9 does, at its n-th call of os.link or os.replace."""
    original, seen = getattr(os, name), 0

    def deadly(*arguments: Any, **options: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == call:
            os.kill(os.getpid(), signal.SIGKILL)
        original(*arguments, **options)

    setattr(os, name, deadly)


def _jumping_clock() -> None:
    """Make the time of day jump forward and back by hours each time it is read."""
    import datetime as dt

    real, jumps = time.time, [0]

    def jumping() -> float:
        jumps[0] += 1
        return real() + 7200 * (-1) ** jumps[0]

    class Jumping(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
            return dt.datetime.fromtimestamp(jumping(), tz)

    time.time = jumping
    for name, module in list(sys.modules.items()):
        if name.startswith("sweep.") and name != "sweep.schema" and getattr(module, "dt", None) is dt:
            module.dt = types.SimpleNamespace(**vars(dt) | {"datetime": Jumping})  # type: ignore[attr-defined]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--executor", default="here")
    parser.add_argument("--kill-at-link", type=int)
    parser.add_argument("--kill-at-replace", type=int)
    parser.add_argument("--clock-jumps", action="store_true")
    parser.add_argument("--grace", type=float, default=30.0)
    options = parser.parse_args()
    if options.clock_jumps:
        _jumping_clock()
    if options.kill_at_link:
        _kill_at(options.kill_at_link, "link")
    if options.kill_at_replace:
        _kill_at(options.kill_at_replace, "replace")
    try:
        return run(options.folder, study(grace_s=options.grace), options.executor).exit_code
    except UserError as error:
        print(error)
        return 2


if __name__ == "__main__":
    import fault_study  # Ray's workers import the job's function by its module's name

    sys.exit(fault_study.main())
