"""Child process that hosts Ray. Its crash cannot kill the driver; it is killed when the driver exits.

When Ray's servers die, Ray ends the process that uses them, silently, by `_Exit`. This process leads a process group to
which everything that Ray starts belongs, and is killed together with it.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sweep.executors.ray_tune.fork_server import CAN_FORK, ForkServer, server_address
from sweep.executors.ray_tune.link import Link, end_process
from sweep.executors.ray_tune.messages import Failure, RayFailed, Start
from sweep.files.code import PACKAGES

# Ray reads these when it is imported. It sends no usage statistics and writes no screens, warnings or result files of
# its own. The working directory stays, so that relative paths mean what they mean to the user. A call after Ray's
# shutdown fails instead of starting or joining another Ray. The runner submits only what fits, so Tune need not limit
# pending trials. Tune does not repeat trials, not even on preempted nodes, and writes no snapshots: nothing reads them.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "TUNE_DISABLE_AUTO_INIT": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
}
# Ray reads these too. Workers stay in the process group. Every server binds to the loopback address, which
# ray.init(_node_ip_address="127.0.0.1") does not achieve: Ray replaces that address with the machine's own. A token
# keeps other users of this machine out; if it is not set here, Ray writes one into the home folder.
ONLY_THIS_MACHINE = {
    "RAY_process_group_cleanup_enabled": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}
OBJECT_STORE_BYTES = 100 * 2**20  # near Ray's minimum, because only metrics pass through it


def main(pipe_fd: int) -> None:
    """Run jobs that come through the pipe until `Close` or the driver's end, then kill this process group."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)
    os.set_inheritable(pipe_fd, False)
    pipe = Connection(pipe_fd)
    start: Start = pipe.recv()
    link = Link(pipe, start)
    os.environ.setdefault("OMP_NUM_THREADS", str(start.request.cpus))  # as Ray sets it for its workers
    # It imports while Ray starts. A cluster's nodes have servers of their own.
    _server = ForkServer.start(start.warm_up, server_address(start.scratch)) if CAN_FORK and not start.address else None
    try:
        _start_ray(start.address, start.scratch)
        import ray

        from sweep.executors.ray_tune.loop import run_tune
        from sweep.executors.ray_tune.nodes import NodePool

        link.watch_ray()
        nodes = NodePool(start.request, start.probe)
        capacity = nodes.check_all()
        link.send(capacity)
        if start.address is not None:
            threading.Thread(target=nodes.watch, args=[capacity, link.send], daemon=True).start()
        run_tune(start, link, nodes)
        ray.shutdown()
    except Exception as error:
        link.send(Failure.of(error))
    finally:
        end_process()


def _start_ray(address: str | None, scratch: Path) -> None:
    """Start Ray on this machine, or join a cluster. Raises RayFailed."""
    options: dict[str, Any] = {}
    if address is None:
        # Names of clusters and how to join them. Variables that tune Ray's servers are in small letters, and stay.
        for name in filter(re.compile("RAY_[A-Z]").match, list(os.environ)):
            del os.environ[name]
        os.environ.update(ONLY_THIS_MACHINE | {"RAY_AUTH_TOKEN": secrets.token_hex(32)})
        os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))  # workers import what this can
        options = {"_temp_dir": str(scratch), "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    os.environ.update(QUIET)
    import ray
    from ray.job_config import JobConfig

    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        # As a client's job: otherwise Ray puts the current folder, where the user may have a sweep.py or another clone
        # of this program, first in its workers' sys.path.
        job = JobConfig(_client_job=True, _py_driver_sys_path=_list_checkout())
        # Not without an address, because ray.init would join the cluster that RAY_ADDRESS names.
        ray.init(address or "local", log_to_driver=False, logging_level=logging.CRITICAL, job_config=job, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RayFailed(error) from error
    signal.signal(signal.SIGTERM, _ignore)  # Ray has installed a handler that exits


def _list_checkout() -> list[str]:
    """Return the folder that workers import this program from before any other: none if it is installed."""
    folder = PACKAGES[1].parent
    return [] if folder.name in ("site-packages", "dist-packages") else [str(folder)]


def _ignore(*_: object) -> None:
    """Leave signals to the driver. Unlike SIG_IGN, workers do not inherit a handler."""
