"""Ray Tune's side: where its trials come from, what it reports, and what a worker does."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from sweep.executors.base import Event, Job, Lost, Progress, ResourceRequest, RunJob, Started
from sweep.executors.ray_tune.node_check import FolderProbe
from sweep.executors.ray_tune.nodes import NodePool

# Of configs {"job", "folder"}, ids of jobs to stop, and None at the end.
Submissions = queue.SimpleQueue
Send = Callable[[Event], None]


@dataclass(kw_only=True)
class _Live:
    """Tune's trials that have not ended, by the ids of their jobs."""

    trials: dict[str, Any] = field(default_factory=dict)
    to_stop: list[str] = field(default_factory=list)
    stopped: set[str] = field(default_factory=set)  # of these
    again: deque[dict[str, Any]] = field(default_factory=deque)  # configs of those that are to wait anew


def run_tune(
    submitted: Submissions,
    send: Send,
    closing: threading.Event,
    *,
    run: RunJob,
    mark: FolderProbe | None,
    machines: NodePool,
    scratch: Path,
    reuse_workers: bool,
) -> None:
    """Run what is submitted until `closing`, and `send` what becomes of it. Ray Tune's own files go to `scratch`."""
    live = _Live()

    def train(config: dict[str, Any]) -> None:
        _work(run, mark, config["job"], config["folder"])

    # tune.run and not Tuner, which pickles searcher and callbacks to restore them; resume is planned minus stored.
    tune.run(
        tune.with_resources(train, _resources),
        search_alg=_Submitted(submitted, live, machines),
        scheduler=_Stopper(closing, live, machines),
        num_samples=-1,
        callbacks=[_Reporter(send, live, machines)],
        raise_on_failed_trial=False,
        reuse_actors=reuse_workers,
        verbose=0,
        storage_path=str(scratch),
        trial_dirname_creator=lambda trial: trial.trial_id,
    )


def _work(run: RunJob, mark: FolderProbe | None, job: Job, folder: Path) -> None:
    """Runs in the worker."""
    if mark and (problem := mark.problem()):  # the machine has passed its check, and is at fault since
        lost = Lost(job_id=job.job_id, reason="its machine is left out", machine_left=True)
        tune.report({"end": lost, "problem": problem, "node_id": ray.get_runtime_context().get_node_id()})
        return
    steps = run(job, folder)
    while True:
        try:
            tune.report({"metrics": next(steps)})
        except StopIteration as end:
            tune.report({"end": end.value})
            return


def _resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    resources: ResourceRequest = config["job"].resources
    bundle = {"CPU": resources.cpus, "GPU": resources.gpus}
    if resources.accelerator_type:
        bundle[f"accelerator_type:{resources.accelerator_type}"] = 0.001  # Ray's way to ask for a machine that has some
    return tune.PlacementGroupFactory([bundle], bundle_label_selector=[{"ray.io/node-id": config["machines"]}])


class _Submitted(Searcher):
    """Hands out what is submitted, in its order, for the machines that jobs may go to."""

    def __init__(self, submitted: Submissions, live: _Live, machines: NodePool) -> None:
        super().__init__()
        self._submitted = submitted
        self._live = live
        self._machines = machines
        self._running = 0

    def suggest(self, trial_id: str) -> Any:
        while True:
            try:
                # With nothing to run Tune would sleep for a second at a time; waiting here starts the next at once.
                again, block = self._live.again, self._running == 0
                message = again.popleft() if again else self._submitted.get(block)
            except queue.Empty:
                return None
            if message is None:
                return Searcher.FINISHED
            if isinstance(message, dict):
                self._running += 1
                return message | {"machines": self._machines.selector}
            self._live.to_stop.append(message)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        self._running -= 1

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Tune's snapshots are never restored."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


class _Stopper(FIFOScheduler):
    """Ends trials that are to be stopped, and all of them when the executor closes: a scheduler is handed the means.

    Those that wait while machines come and go wait anew, because Ray cannot change what they wait for.
    """

    def __init__(self, closing: threading.Event, live: _Live, machines: NodePool) -> None:
        super().__init__()
        self._closing = closing
        self._live = live
        self._machines = machines

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Called in each of Tune's steps. Tune starts what is pending without a choice of ours."""
        if self._closing.is_set():
            self._live.to_stop = list(self._live.trials)
        for trial_id in self._live.to_stop:
            if (trial := self._live.trials.get(trial_id)) is None:
                continue  # it has just ended
            self._live.stopped.add(trial_id)
            if (worker := trial.temporary_state.ray_actor) is not None:
                ray.kill(worker)  # Tune itself would ask the worker, which hears it only between two epochs
            else:
                tune_controller.stop_trial(trial)  # it has no worker yet
        self._live.to_stop.clear()
        selector = self._machines.selector
        for trial_id, trial in list(self._live.trials.items()):
            if trial.temporary_state.ray_actor is None and trial.config["machines"] != selector:
                self._live.again.append(self._live.trials.pop(trial_id).config)
                tune_controller.stop_trial(trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A worker that only could not be reached must not go on beside the one that takes over its job."""
        if (worker := trial.temporary_state.ray_actor) is not None:
            ray.kill(worker)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._live.trials[trial.config["job"].job_id] = trial


class _Reporter(tune.Callback):
    """Sends what Tune sees as events."""

    def __init__(self, send: Send, live: _Live, machines: NodePool) -> None:
        self._send = send
        self._live = live
        self._machines = machines

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._send(Started(job_id=trial.config["job"].job_id))  # its worker is up

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        if "metrics" in result:
            self._send(Progress(job_id=trial.config["job"].job_id, metrics=result["metrics"]))
        if "problem" in result:
            self._machines.leave_out(result["node_id"], result["problem"])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._end(trial)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._end(trial)

    def _end(self, trial: Any) -> None:
        trial_id, last = trial.config["job"].job_id, trial.last_result or {}
        if self._live.trials.get(trial_id) is not trial:
            return  # its job waits anew
        del self._live.trials[trial_id]
        stopped = trial_id in self._live.stopped
        self._live.stopped.discard(trial_id)
        self._send(last["end"] if "end" in last else _lost(trial_id, stopped, _error_of(trial)))


def _error_of(trial: Any) -> str:
    """As Tune writes it where this runs; its own `get_error` looks where a snapshot would have taken it."""
    return Path(trial.error_file).read_text().strip() if trial.error_file else ""


def _lost(trial_id: str, stopped: bool, error: str) -> Lost:
    if stopped:
        return Lost(job_id=trial_id, reason="stopped")
    if "running low on memory" in error:  # Ray's words; it has an exception for this, of which Tune keeps the text
        reason = "the machine ran out of memory, and Ray ended the worker"
        return Lost(job_id=trial_id, reason=reason, out_of_memory=True)
    if "actor died" in error:
        left = "its node has died" in error
        return Lost(
            job_id=trial_id, reason="its machine left" if left else "its worker process died", machine_left=left
        )
    if "is temporarily unavailable" in error:  # a machine that has just left looks so, until it is missed
        return Lost(job_id=trial_id, reason="its worker cannot be reached", machine_left=True)
    return Lost(job_id=trial_id, reason=error.splitlines()[-1] if error else "its worker has ended without a word")
