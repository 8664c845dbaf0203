"""Ray Tune's loop: the hooks that give it jobs, stop them and report their events."""

from __future__ import annotations

import queue
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from famba_core.errors import Problem
from sweep.executors.base import Finished, Lost, Progress, ResourceRequest, Started
from sweep.executors.ray_tune.fork_server import CAN_FORK, WorkerTask, run_forked, server_address
from sweep.executors.ray_tune.link import Link
from sweep.executors.ray_tune.messages import Close, Failure, Start, Stop, Submit
from sweep.executors.ray_tune.nodes import NodePool
from sweep.files.code import find_other_code


@dataclass(kw_only=True)
class _State:
    """The jobs in Tune, and the connections of its hooks."""

    link: Link
    nodes: NodePool
    only_this_machine: bool  # not a cluster
    trials: dict[str, Any] = field(default_factory=dict)  # by job id: the Tune trials that have not ended
    to_stop: list[str] = field(default_factory=list)  # job ids
    stopped: set[str] = field(default_factory=set)  # job ids, of `trials`
    requeued: deque[Submit] = field(default_factory=deque)


def run_tune(start: Start, link: Link, nodes: NodePool) -> None:
    """Run the jobs that `link` receives and send their events, until it closes."""
    state = _State(link=link, nodes=nodes, only_this_machine=start.address is None)
    # all that is pickled for the workers
    run, folder, warm_up, address = start.run, start.folder, start.warm_up, server_address(start.scratch)
    find_problem = start.probe.find_problem if start.probe else partial(find_other_code, start.code_hash)

    def train(config: dict[str, Any]) -> None:
        task = WorkerTask(run=run, job=config["job"], folder=folder, find_problem=find_problem)
        for report in run_forked(task, warm_up, address) if CAN_FORK else task.reports():
            tune.report(report | {"node_id": ray.get_runtime_context().get_node_id()})

    # tune.run, because a Tuner pickles its hooks to restore them; here resume is planned minus stored.
    tune.run(
        tune.with_resources(train, _request_resources),
        search_alg=_JobSource(state),
        scheduler=_JobStopper(state),
        num_samples=-1,
        callbacks=[_EventReporter(state)],
        raise_on_failed_trial=False,
        reuse_actors=CAN_FORK,
        verbose=0,
        storage_path=str(start.scratch),
        trial_dirname_creator=lambda trial: trial.trial_id,
    )


def _request_resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    resources: ResourceRequest = config["job"].resources
    bundle = {"CPU": resources.cpus, "GPU": resources.gpus}
    if resources.accelerator_type:  # a node with such GPUs has 1 of this resource
        bundle[f"accelerator_type:{resources.accelerator_type}"] = 0.001
    return tune.PlacementGroupFactory([bundle], bundle_label_selector=[{"ray.io/node-id": config["nodes"]}])


class _Hook:
    """An object that Tune calls, with the state that all of them share."""

    def __init__(self, state: _State) -> None:
        super().__init__()
        self._state = state


class _JobSource(_Hook, Searcher):
    """Gives Tune the submitted jobs in their order, each for the nodes that jobs may use now."""

    def suggest(self, trial_id: str) -> Any:
        """Return the config of the next job, None if there is none now, or FINISHED."""
        state = self._state
        while True:
            try:
                # Wait here while nothing runs. If Tune got None, it would sleep for a second before its next call.
                message = state.requeued.popleft() if state.requeued else state.link.inbox.get(block=not state.trials)
            except queue.Empty:
                return None
            match message:
                case Submit(job):
                    return {"job": job, "nodes": state.nodes.selector}
                case Stop(job_id):
                    state.to_stop.append(job_id)
                case Close():
                    return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Learn nothing: results do not change the jobs."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: Tune's snapshots are never restored."""


class _JobStopper(_Hook, FIFOScheduler):
    """Stops jobs. It is a scheduler because Tune passes its controller only to schedulers."""

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Stop jobs, and requeue waiting ones if the nodes have changed. Tune calls this in each of its steps.

        It chooses no trial: Tune starts pending trials by itself.
        """
        state = self._state
        for job_id in list(state.trials) if state.link.closing.is_set() else state.to_stop:
            if (trial := state.trials.get(job_id)) is None:
                continue  # it has just ended
            state.stopped.add(job_id)
            if (worker := trial.temporary_state.ray_actor) is not None:
                ray.kill(worker)  # Tune would ask the worker to stop, which it notices only between two epochs
            else:
                tune_controller.stop_trial(trial)  # it has no worker yet
        state.to_stop.clear()
        # Ray cannot change the nodes that a waiting job may use, so it gets a new trial.
        selector = state.nodes.selector
        for job_id, trial in list(state.trials.items()):
            if trial.temporary_state.ray_actor is None and trial.config["nodes"] != selector:
                state.requeued.append(Submit(trial.config["job"]))
                del state.trials[job_id]
                tune_controller.stop_trial(trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Kill the worker: if it was only unreachable, it would run concurrently with the next attempt at its job."""
        if (worker := trial.temporary_state.ray_actor) is not None:
            ray.kill(worker)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._state.trials[trial.config["job"].job_id] = trial


class _EventReporter(_Hook, tune.Callback):
    """Sends what Tune notices as events of jobs."""

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Report that the trial's worker runs."""
        self._state.link.send(Started(job_id=trial.config["job"].job_id))

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if "metrics" in result:
            self._state.link.send(Progress(job_id=trial.config["job"].job_id, metrics=result["metrics"]))
        if "problem" in result:
            self._state.nodes.exclude(result["node_id"], result["problem"])
            if self._state.only_this_machine:  # no other node could run the job
                self._state.link.send(Failure(problems=(Problem("", "", result["problem"]),)))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        state, job_id = self._state, trial.config["job"].job_id
        was_requeued = state.trials.get(job_id) is not trial
        if was_requeued:
            return
        del state.trials[job_id]
        end: Finished | Lost | None = (trial.last_result or {}).get("end")
        if end is None and job_id in state.stopped:
            end = Lost(job_id=job_id, reason="stopped")
        state.stopped.discard(job_id)
        state.link.send(end or _read_loss(job_id, trial.error_file))

    on_trial_error = on_trial_complete


def _read_loss(job_id: str, error_file: str | None) -> Lost:
    """Return why a worker ended, from the text of Ray's exception, which is all that Tune keeps of it.

    Checked with Ray 2.50.0 and 2.60.0. Tune's `get_error` is not used: it looks for the file in a snapshot's folder.
    """
    text = Path(error_file).read_text().strip() if error_file else ""
    if "running low on memory" in text:
        reason = "the machine ran out of memory, and Ray ended the worker"
        return Lost(job_id=job_id, reason=reason, out_of_memory=True)
    if "actor died" in text and "its node has died" in text:
        return Lost(job_id=job_id, reason="its machine left", node_left=True)
    if "actor died" in text:
        return Lost(job_id=job_id, reason="its worker process died")
    if "is temporarily unavailable" in text:  # as is every worker of a node that left, until Ray notices
        return Lost(job_id=job_id, reason="its worker cannot be reached", node_left=True)
    last_line = text.splitlines()[-1] if text else "the worker exited without reporting an error"
    return Lost(job_id=job_id, reason=last_line)
