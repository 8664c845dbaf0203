"""A Ray cluster of several raylets on this machine, with simulated GPUs. It listens on the loopback address only.

Run as a script, this file is the cluster. It starts the head, prints its address, and reads one JSON object per line:
{"add": {...}} starts a raylet and prints its node id, {"hide": id} mounts an empty folder over one that the raylet
sees, {"remove": id} kills a raylet, {"head": "SIGSTOP"} sends a signal to the head's server. It exits at end of input.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from sweep.executors.ray_tune.scratch import Scratch

# Ray reads these when it is imported: all servers listen on the loopback address and notice lost nodes quickly; no
# worker is started before it is needed.
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
}


class LocalCluster:
    """A running cluster. Its head has no CPUs, so jobs run only on the nodes that are added."""

    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        self._scratch = Scratch()
        self._log = open(folder / "cluster.log", "w")  # noqa: SIM115 - open as long as the process runs
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            # There lie the sessions and the address that "auto" means, which Ray writes here and removes in the end.
            env=os.environ | ENVIRONMENT | {"PYTHONPATH": path, "RAY_TMPDIR": str(self._scratch.folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        self.address = self._read_answer()

    def add(
        self, *, cpus: int = 2, gpus: int = 0, accelerator_type: str | None = None, hidden: Path | None = None
    ) -> str:
        """Start a node and return its id. To this node the folder `hidden` is empty."""
        resources = {f"accelerator_type:{accelerator_type}": 1} if accelerator_type else {}
        return self._request(
            add={"num_cpus": cpus, "num_gpus": gpus, "resources": resources}, hidden=hidden and str(hidden)
        )

    def hide(self, node_id: str, folder: Path) -> None:
        """Make `folder` empty for the node too, which must have been added with a hidden folder."""
        self._request(hide=node_id, folder=str(folder))

    def remove(self, node_id: str) -> None:
        self._request(remove=node_id)

    @contextlib.contextmanager
    def silent_head(self) -> Iterator[None]:
        """Suspend the head's server while the block runs."""
        self._request(head="SIGSTOP")
        try:
            yield
        finally:
            self._request(head="SIGCONT")

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._process.stdin.close()
        self._process.wait(60)
        self._log.close()
        self._scratch.remove()

    def _request(self, **request: Any) -> str:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read_answer()

    def _read_answer(self) -> str:
        while line := self._process.stdout.readline():
            kind, _, rest = line.strip().partition(" ")
            if kind == "answer:":
                return rest
        raise AssertionError(Path(self._log.name).read_text())


def answer(text: str) -> None:
    print("answer:", text, flush=True)


def hide_prefix(hidden: str | None) -> Sequence[str]:
    """Return a command prefix that runs a command in its own mount namespace, where the folder is empty."""
    return [] if hidden is None else ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {hidden} && exec "$@"', "sh"]


def main() -> None:
    from ray._private import services
    from ray.cluster_utils import Cluster

    start_process = services.start_ray_process
    head = {"num_cpus": 0, "include_dashboard": False, "include_log_monitor": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = {}
    answer(cluster.address)
    for line in sys.stdin:
        request = json.loads(line)
        if "add" in request:
            prefix = hide_prefix(request["hidden"])

            def start(command: list[str], *args: Any, prefix: Sequence[str] = prefix, **options: Any) -> Any:
                return start_process([*prefix, *command], *args, **options)

            services.start_ray_process = start
            node = cluster.add_node(**request["add"], include_dashboard=False)
            nodes[node.node_id] = node
            answer(node.node_id)
        elif "hide" in request:
            pid = nodes[request["hide"]].all_processes["raylet"][0].process.pid
            subprocess.run(
                ["nsenter", "-m", "-t", str(pid), "mount", "-t", "tmpfs", "none", request["folder"]], check=True
            )
            answer("hidden")
        elif "head" in request:
            server = cluster.head_node.all_processes["gcs_server"][0].process
            server.send_signal(signal.Signals[request["head"]])
            answer("signalled")
        else:
            cluster.remove_node(nodes.pop(request["remove"]), allow_graceful=False)
            answer("removed")
    cluster.shutdown()


if __name__ == "__main__":
    main()
