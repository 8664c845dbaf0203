"""The end of the pipe in Ray's process. A thread receives messages and notices when Ray or the driver fails."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from sweep.executors.ray_tune.messages import Close, Failure, Start, ToDriver, ToRay

WATCH_S = 0.5
ASK_HEAD_S = 2.0


class Link:
    """Sends messages to the driver, and queues those that arrive in a thread, because the main thread is Ray Tune's."""

    def __init__(self, pipe: Connection, start: Start) -> None:
        self.inbox: queue.SimpleQueue[ToRay] = queue.SimpleQueue()
        self.closing = threading.Event()
        self._pipe, self._start = pipe, start
        self._sending = threading.Lock()
        self._ray_node: Any = None  # Ray's handle of the servers that it started in this process group
        self._head_silent_s = 0.0  # time since the head's last answer in which this process was not suspended
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, message: ToDriver) -> None:
        self._end_if_ray_failed()  # first, because `message` may only be a consequence
        with self._sending:
            self._pipe.send(message)

    def watch_ray(self) -> None:
        """From now on, end this process if one of Ray's servers here dies or Ray's head stops answering."""
        import ray

        self._ray_node = ray._private.worker._global_node
        threading.Thread(target=self._ask_head, daemon=True).start()

    def _listen(self) -> None:
        """Queue messages and watch Ray's servers, for which Tune would wait forever. Ends with the process."""
        try:
            while True:
                if not self._pipe.poll(WATCH_S):
                    self._head_silent_s += WATCH_S
                    self._end_if_ray_failed()
                    continue
                message: ToRay = self._pipe.recv()
                if isinstance(message, Close):
                    if self._start.address is None:
                        return  # all processes to stop are in the process group
                    self.closing.set()
                self.inbox.put(message)
        except (EOFError, OSError):  # the driver died
            # Delete the folder after this process group, which writes there, was killed.
            with contextlib.suppress(OSError):
                subprocess.Popen(["sh", "-c", 'sleep 1; rm -rf -- "$0"', self._start.scratch], start_new_session=True)
        except Exception as error:
            self.send(Failure.of(error))
        finally:
            end_process()

    def _ask_head(self) -> None:
        """Note each answer of Ray's head. A call to a silent head blocks, so it has a thread of its own."""
        import ray

        while True:
            ray.nodes()
            self._head_silent_s = 0.0
            time.sleep(ASK_HEAD_S)

    def _end_if_ray_failed(self) -> None:
        """Report a dead server of this process group, or a silent head, and end the process."""
        processes = self._ray_node.dead_processes() if self._ray_node else []  # Ray's public calls wait for them
        if dead := [name for name, _ in processes if name in ("gcs_server", "raylet")]:
            reason = f"{' and '.join(dead)} died"
        elif self._ray_node and self._head_silent_s > self._start.head_timeout_s:
            reason = f"no answer for {self._start.head_timeout_s:g} s"
        else:
            return
        with self._sending:
            self._pipe.send(Failure(ray_failed=reason))
            end_process()


def end_process() -> None:
    """Kill this process and all processes that Ray has started from it."""
    os.killpg(0, signal.SIGKILL)
