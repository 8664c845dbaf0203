"""Trials through Ray Tune, on the cores and GPUs of this machine or of a cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweep.errors import UserError
from sweep.executor import Event
from sweep.plan import TrialPlan

# Read when Ray is imported: no statistics sent out, none of its own screens, warnings and result files. The working
# directory stays, so that relative paths mean what they mean here. A call that comes when Ray has been shut down fails,
# rather than start or join another one. The runner submits no more trials than fit, so Tune need not hold them back.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "TUNE_DISABLE_AUTO_INIT": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",
}
# Also read then: every server binds to the loopback address, which ray.init(_node_ip_address="127.0.0.1") does not do,
# because Ray replaces that address with the machine's own; and the token that keeps this machine's other users out is
# this process's own, where Ray would leave one in the home folder.
ONLY_THIS_MACHINE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
OBJECT_STORE_BYTES = 100 * 2**20  # near Ray's minimum: only metrics pass through it
CLOSE_TIMEOUT_S = 10.0
REACH_TIMEOUT_S = 5.0


class RayExecutor:
    """Runs each trial as a Ray Tune trial in a fresh worker process.

    Ray Tune decides where and when, and notices when a worker dies. Its loop blocks, so it has a thread of its own,
    and two queues are all that crosses over: trials into it, events out of it.

    Starts Ray on this machine, or joins the cluster at `address`, whose machines must see the study's folder under
    the same path. Raises UserError if no machine has what a trial takes.
    """

    def __init__(self, folder: Path, trials: Sequence[TrialPlan], *, address: str | None = None) -> None:
        self._folder = folder.resolve()
        self._submitted: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._scratch = Path(tempfile.mkdtemp(prefix="famba-sweep-"))
        self._thread = threading.Thread(target=self._run_tune, name="ray-tune", daemon=True)
        try:
            _start_ray(address)
            self.capacity = _capacity(trials)
        except BaseException:
            self._free()
            raise
        self._thread.start()

    def submit(self, trial: TrialPlan, attempt: int) -> None:
        self._submitted.put({"trial": trial, "attempt": attempt, "folder": self._folder})

    def poll(self, timeout_s: float) -> list[Event]:
        received: list[Event | Exception] = []
        with contextlib.suppress(queue.Empty):
            received.append(self._events.get(timeout=timeout_s))
            while True:
                received.append(self._events.get_nowait())
        if dead := _dead_servers():  # first: whatever else has come may be only a consequence
            raise _stopped(f"{' and '.join(dead)} died")
        for error in received:
            if isinstance(error, Exception):
                raise error
        return [event for event in received if not isinstance(event, Exception)]

    def close(self) -> None:
        if not self._closing.is_set():
            self._closing.set()
            self._submitted.put(None)
            if not _dead_servers():  # else nothing answers Tune any more
                self._thread.join(CLOSE_TIMEOUT_S)
            self._free()

    def _run_tune(self) -> None:
        from sweep.tune_loop import run_tune

        try:
            run_tune(self._submitted, self._events, self._closing, self._scratch)
        except Exception as error:  # raised again by `poll`, in the runner's thread
            self._events.put(error)
        except SystemExit:  # so Ray ends a thread whose connection to it is gone
            self._events.put(_stopped("its connection ended"))

    def _free(self) -> None:
        import ray

        ray.shutdown()
        shutil.rmtree(self._scratch, ignore_errors=True)


def _start_ray(address: str | None) -> None:
    os.environ.update(QUIET)
    if address is None:
        os.environ.update(ONLY_THIS_MACHINE)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray reads it once in a process
    else:
        _check_reachable(address)
    import ray

    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            # "local", because without an address ray.init joins whatever cluster RAY_ADDRESS names.
            ray.init(
                "local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
        else:
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"Ray does not start ({address or 'on this machine'}): {error}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in place, which would exit at once


def _stopped(how: str) -> UserError:
    return UserError(f"Ray itself has stopped working ({how}); what has ended is stored, and the same command goes on")


def _dead_servers() -> list[str]:
    """Which of the servers that this process started, and that Ray cannot do without, have died."""
    import ray

    node = ray._private.worker._global_node  # Ray's public calls would wait for them
    return [name for name, _ in node.dead_processes() if name in ("gcs_server", "raylet")]


def _check_reachable(address: str) -> None:
    """Raise UserError where nobody listens; Ray itself would try for minutes."""
    if "://" in address:
        raise UserError(f"--address {address}: join the cluster itself, as auto or host:port; Ray clients cannot")
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():  # not "auto"
            socket.create_connection((host, int(port)), timeout=REACH_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(f"--address {address}: no Ray cluster answers there ({error.strerror or error})") from error


def _capacity(trials: Sequence[TrialPlan]) -> int:
    """How many of the largest trial fit at the same time. A trial lives on one machine."""
    import ray

    cpus = max(trial.cpus_per_trial for trial in trials)
    gpus = max(trial.gpus_per_trial for trial in trials)
    machines = [
        (node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]
    ]
    capacity = 0
    for has_cpus, has_gpus in machines:
        on_gpus = int(has_gpus) * int(1 / gpus) if gpus else has_cpus  # a trial does not span two GPUs
        capacity += int(min(has_cpus // cpus, on_gpus))
    if capacity == 0:
        has_cpus, has_gpus = max(machines)
        raise UserError(
            f"a trial takes {cpus} CPUs and {gpus:g} GPUs (cpus_per_trial, gpus_per_trial), and the "
            f"largest machine has {has_cpus:g} CPUs and {has_gpus:g} GPUs"
        )
    return capacity
