"""The process that Ray lives in. It ends with the sweep, and the sweep does not end with it.

Ray ends a process whose servers have died by `_Exit`, without a word, so it gets one that nobody else needs: the leader
of a process group of its own, to which all that Ray starts belongs and with which it is killed. One pipe leads to the
sweep's process: jobs come down, and ids of jobs to stop; up go the room for jobs, first and whenever it changes, words
for the user, and events, or an error that is the last message.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sweep.errors import UserError
from sweep.executors.base import ResourceRequest, RunJob
from sweep.executors.ray_tune.node_check import FolderProbe
from sweep.executors.ray_tune.nodes import NodePool

# Read when Ray is imported: no statistics sent out, none of its own screens, warnings and result files. The working
# directory stays, so that relative paths mean what they mean to the user. A call that comes when Ray has been shut down
# fails, rather than start or join another one. The runner submits no more than fits, so Tune need not hold it back.
# Tune itself repeats nothing, not even what a preempted machine ran, and writes no snapshots, which nobody would read.
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
# Also read then: workers stay in the process group; every server binds to the loopback address, which
# ray.init(_node_ip_address="127.0.0.1") does not do, because Ray replaces that address with the machine's own; and a
# token, which Ray would otherwise leave in the home folder, keeps this machine's other users out.
ONLY_THIS_MACHINE = {
    "RAY_process_group_cleanup_enabled": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}
OBJECT_STORE_BYTES = 100 * 2**20  # near Ray's minimum: only metrics pass through it
WATCH_S = 0.5
ASK_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Start:
    """The first message."""

    address: str | None  # of a cluster to join; None starts Ray on this machine
    need: ResourceRequest
    mark: FolderProbe | None  # to be seen by all machines; None where there is but this one
    scratch: Path  # for Ray's own files
    run: RunJob
    reuse_workers: bool
    silence_s: float  # of Ray's head, after which it counts as gone


def main(pipe_fd: int) -> None:
    """Run what comes down the pipe until None comes or the other end is gone; kills its process group in the end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)
    os.set_inheritable(pipe_fd, False)
    pipe = Connection(pipe_fd)
    start: Start = pipe.recv()
    link = _Link(pipe, start)
    try:
        _start_ray(start.address, start.scratch)
        import ray

        from sweep.executors.ray_tune.loop import run_tune

        link.node = ray._private.worker._global_node
        threading.Thread(target=_ask_ray, args=[link], daemon=True).start()
        machines = NodePool(start.need, start.mark)
        room = machines.first_room()
        link.send(room)
        if start.address is not None:
            machines.watch(room, link.send)
        run_tune(
            link.submitted,
            link.send,
            link.closing,
            run=start.run,
            mark=start.mark,
            machines=machines,
            scratch=start.scratch,
            reuse_workers=start.reuse_workers,
        )
        link.node = None
        ray.shutdown()
    except UserError as error:
        link.send(error)
    except Exception:
        link.send(RuntimeError(traceback.format_exc()))  # Ray's own exceptions would import it where they are read
    finally:
        _end()


def stopped(how: str) -> UserError:
    """What the user is told when Ray fails in the middle of a sweep."""
    return UserError(f"Ray itself has stopped working ({how}); what has ended is stored, and the same command goes on")


def no_start(address: str | None, why: object) -> UserError:
    """What the user is told when Ray fails before the first job."""
    return UserError(f"Ray does not start ({address or 'on this machine'}): {why}")


class _Link:
    """The pipe, and a thread that listens to it: Ray Tune has the main thread."""

    def __init__(self, pipe: Connection, start: Start) -> None:
        self.submitted: queue.SimpleQueue[dict[str, Any] | str | None] = queue.SimpleQueue()
        self.closing = threading.Event()
        self.node: Any = None  # Ray's, whose servers are watched
        self.silence_s = 0.0  # since Ray's head answered last, without the time in which this process was stopped
        self._pipe = pipe
        self._start = start
        self._sending = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, message: Any) -> None:
        self._end_with_ray()  # first, because `message` may be only a consequence
        with self._sending:
            self._pipe.send(message)

    def _listen(self) -> None:
        """Receive, and look after Ray's servers meanwhile, because Tune would wait for them. Ends with the process."""
        try:
            while True:
                if self._pipe.poll(WATCH_S):
                    message = self._pipe.recv()
                    if message is None:
                        if self._start.address is None:
                            return  # all that is to be ended is in the process group
                        self.closing.set()
                    self.submitted.put(message)
                else:
                    self.silence_s += WATCH_S
                    self._end_with_ray()
        except (EOFError, OSError):  # the sweep's process has died
            _remove_later(self._start.scratch)
        except Exception:
            self.send(RuntimeError(traceback.format_exc()))
        finally:
            _end()

    def _end_with_ray(self) -> None:
        """If Ray cannot go on, say so and end the process: a server that was started here has died, or the head is
        silent, which may be elsewhere."""
        processes = self.node.dead_processes() if self.node else []  # Ray's public calls would wait for them
        if dead := [name for name, _ in processes if name in ("gcs_server", "raylet")]:
            why = f"{' and '.join(dead)} died"
        elif self.node and self.silence_s > self._start.silence_s:
            why = f"no answer for {self._start.silence_s:g} s"
        else:
            return
        with self._sending:
            self._pipe.send(stopped(why))
            _end()


def _ask_ray(link: _Link) -> None:
    """Note each answer of Ray's head, from a thread that may wait for one for ever."""
    import ray

    while True:
        ray.nodes()
        link.silence_s = 0.0
        time.sleep(ASK_S)


def _start_ray(address: str | None, scratch: Path) -> None:
    if address is None:
        # Where other clusters are and how to join them. What tunes Ray's servers is in small letters, and stays.
        for name in filter(re.compile("RAY_[A-Z]").match, list(os.environ)):
            del os.environ[name]
    os.environ.update(QUIET)
    if address is None:
        os.environ.update(ONLY_THIS_MACHINE | {"RAY_AUTH_TOKEN": secrets.token_hex(32)})
        os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))  # workers import what this can
    import ray

    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        if address is None:
            # "local", because without an address ray.init joins whatever cluster RAY_ADDRESS names.
            ray.init(
                "local",
                _temp_dir=str(scratch),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
        else:
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise no_start(address, error) from error
    signal.signal(signal.SIGTERM, _ignore)  # Ray puts its own handler in place, which would exit


def _ignore(*_: object) -> None:
    """Leave it to the sweep's process what a signal means. Unlike SIG_IGN no worker inherits this."""


def _remove_later(scratch: Path) -> None:
    """When this process has killed all that may write there, itself too."""
    with contextlib.suppress(OSError):
        subprocess.Popen(["sh", "-c", 'sleep 1; rm -rf -- "$0"', scratch], start_new_session=True)


def _end() -> None:
    """Kill this process and all that Ray has started from it."""
    os.killpg(0, signal.SIGKILL)
