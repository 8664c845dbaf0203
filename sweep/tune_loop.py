"""Ray Tune's side: where its trials come from, what it reports, and what a worker does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from sweep.executor import Event, Finished, Lost, Progress
from sweep.job import run_job

Submissions = queue.SimpleQueue  # of configs {"job", "attempt", "folder"}, and None at the end
Send = Callable[[Event], None]


def run_tune(submitted: Submissions, send: Send, closing: threading.Event, scratch: Path) -> None:
    """Run what is submitted until `closing`, and `send` what becomes of it. Ray Tune's own files go to `scratch`."""
    # tune.run and not Tuner, which pickles searcher and callbacks to restore them; resume is planned minus stored.
    tune.run(
        tune.with_resources(_train, _resources),
        search_alg=_Submitted(submitted),
        num_samples=-1,
        callbacks=[_Reporter(send, closing)],
        raise_on_failed_trial=False,
        verbose=0,
        storage_path=str(scratch),
        trial_dirname_creator=lambda trial: trial.trial_id,
    )


def _train(config: dict[str, Any]) -> None:
    """Runs in the worker."""
    steps = run_job(config["job"], config["attempt"], config["folder"])
    while True:
        try:
            tune.report({"metrics": next(steps)})
        except StopIteration as end:
            tune.report({"status": end.value.status, "error": end.value.error})
            return


def _resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    job = config["job"]
    return tune.PlacementGroupFactory([{"CPU": job.cpus_per_trial, "GPU": job.gpus_per_trial}])


class _Submitted(Searcher):
    """Hands out what is submitted, in its order."""

    def __init__(self, submitted: Submissions) -> None:
        super().__init__()
        self._submitted = submitted
        self._live = 0

    def suggest(self, trial_id: str) -> Any:
        try:
            # With nothing to run Tune would sleep for a second at a time; waiting here starts the next trial at once.
            config = self._submitted.get(block=self._live == 0)
        except queue.Empty:
            return None
        if config is None:
            return Searcher.FINISHED
        self._live += 1
        return config

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        self._live -= 1

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Tune's snapshots are never restored."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


class _Reporter(tune.Callback):
    """Sends what Tune sees as events, and ends its trials when the executor closes."""

    def __init__(self, send: Send, closing: threading.Event) -> None:
        self._send = send
        self._closing = closing

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        if self._closing.is_set():
            # Tune itself would ask a worker to stop, which it hears only between two epochs.
            for trial in trials:
                if trial.temporary_state.ray_actor is not None:
                    ray.kill(trial.temporary_state.ray_actor)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        if "metrics" in result:
            self._send(Progress(trial_id=trial.config["job"].trial_id, metrics=result["metrics"]))

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._end(trial)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._end(trial)

    def _end(self, trial: Any) -> None:
        trial_id, last = trial.config["job"].trial_id, trial.last_result or {}
        if "status" in last:
            self._send(Finished(trial_id=trial_id, status=last["status"], error=last["error"]))
        else:
            self._send(Lost(trial_id=trial_id, reason=_reason(trial.get_pickled_error())))


def _reason(error: BaseException | None) -> str:
    if isinstance(error, ray.exceptions.RayTaskError):
        return str(error).strip().splitlines()[-1]
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "the machine ran out of memory, and Ray ended the worker"
    return "its worker process died"
