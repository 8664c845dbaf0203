"""A run of the benchmark, shared by its sections: the device, the sizes, and the rows measured so far."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch

from famba_core.bench.machine import AUTO, device_limits, list_versions, peer_bytes_per_image, unsupported_reasons
from famba_core.bench.rows import BenchRow, with_ratios
from famba_core.bench.settings import DEFAULT_BATCH, DEFAULT_PRECISION, QUICK_BATCH, Settings, model_config
from famba_core.bench.timing import Call, Rounds, TimedCall, interleave, release
from famba_core.bench.workloads import Workload
from famba_core.config import Precision
from famba_core.cost.roofline import Limits, Work, least_times
from famba_core.device import choose_device, device_name, prepare

PEER_SHARE = 0.25  # of the device's memory, for the tensors that only a peer saves

Reference = Callable[[Sequence[BenchRow]], BenchRow | None]


@dataclass(kw_only=True)
class Entry(TimedCall):
    """A call to time, and its row. Facts of the call are columns of the row."""

    row: BenchRow
    work: Work | None = None  # of one call, for the limits


class Session:
    """One run of the benchmark.

    Raises ConfigError for a device that does not exist and a precision that the device does not support.
    """

    def __init__(self, settings: Settings):
        self.device = choose_device(settings.device)
        kind = self.device.type
        self.precisions = cast(tuple[Precision, ...], settings.precision or DEFAULT_PRECISION[kind])
        for precision in self.precisions:
            prepare(self.device, precision, settings.threads)
        self.quick = settings.quick
        self.batch = settings.batch or (QUICK_BATCH if settings.quick else DEFAULT_BATCH)[kind]
        self.model = model_config(settings.backbone)
        self.backends = unsupported_reasons(self.device, self.model.sizes)
        self.rows: list[BenchRow] = []
        self.device_name = device_name(self.device)
        self.threads = torch.get_num_threads() if kind == "cpu" else None
        self.versions = list_versions()
        self.limits: Callable[[Precision], Limits] = functools.cache(lambda p: device_limits(self.device, p))

    def rounds(self, *, least: int = 5, budget_s: float = 20.0) -> Rounds:
        """Return the number of rounds for a group, fewer for a quick run."""
        calls = 1 if self.device.type == "cpu" else 5
        if self.quick:
            return Rounds(warmup=1, least=2, most=5, budget_s=min(1.0, budget_s), calls=calls)
        return Rounds(warmup=2 if least > 3 else 1, least=least, budget_s=budget_s, calls=calls)

    def workload(self, precision: Precision, backend: str = AUTO) -> Workload:
        """Return a workload of the session's model and batch, on its device."""
        return Workload(self.model, self.batch, precision, self.device, backend)

    def entry(
        self,
        section: str,
        name: str,
        load: Workload,
        build: Callable[[dict[str, Any]], Call],
        *,
        skipped: str | None = None,
        layers: int | None = None,
        work: Work | None = None,
        **columns: Any,
    ) -> Entry:
        """Return an entry of a section.

        Args:
            build: makes the call, and can add columns of the row.
            skipped: why it is not measured, if its backend can run here.
            layers: of the call; None for all of the model.
        """
        row = BenchRow(
            section=section,
            name=name,
            backend=load.backend,
            peer=load.is_peer,
            backbone=load.model.backbone,
            precision=load.precision,
            batch=load.batch,
            tokens=load.model.num_tokens,
            layers=layers or load.model.sizes.depth,
            device=self.device_name,
            threads=self.threads,
            versions=self.versions,
            **columns,
        )
        return Entry(
            name=f"{name} ({load.backend}, {load.precision}, {load.batch} images)",
            build=build,
            prepare=lambda: prepare(self.device, load.precision, None),
            skipped=self.backends.get(load.backend) or skipped,
            row=row,
            work=None if row.peer else work,
        )

    def measure(self, entries: Sequence[Entry], rounds: Rounds, reference: Reference = lambda rows: None) -> None:
        """Time the entries in turns and keep their rows, also if the run is interrupted.

        reference: finds the row to which the ratios of the group are, or None.
        """
        try:
            for action in interleave(entries, device=self.device, rounds=rounds):
                show_progress(f"{entries[0].row.section}: {action}")
        finally:
            rows = [self._result(entry) for entry in entries if entry.times_ms or entry.skipped or entry.failed]
            found = reference([row for row in rows if row.status == "measured"])
            self.rows += rows if found is None else with_ratios(rows, found)
            release(entries, self.device)

    def fits(self, load: Workload, layers: int) -> bool:
        """True if the tensors that only this peer saves leave most of the device's memory free."""
        per_image = layers * peer_bytes_per_image(load.backend, load.model.sizes, load.model.num_tokens)
        return load.batch * per_image <= PEER_SHARE * self.memory_bytes

    @functools.cached_property
    def memory_bytes(self) -> int:
        """Memory of the device."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_properties(self.device).total_memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def _result(self, entry: Entry) -> BenchRow:
        row, time = entry.row, entry.time
        if entry.failed:
            return replace(row, status="failed", note=entry.failed)
        if entry.skipped:
            return replace(row, status="skipped", note=entry.skipped)
        assert time is not None
        columns = dict(entry.facts)
        if entry.facts.get("fusion_ms") is not None:
            columns["fusion_pct"] = 100 * entry.facts["fusion_ms"] / time.median_ms
        if entry.work is not None:
            limits = self.limits(cast(Precision, row.precision))
            least = least_times(entry.work, limits)
            columns |= {
                "limit_matmul_ms": 1e3 * least.matmul,
                "limit_vector_ms": 1e3 * least.vector,
                "limit_memory_ms": 1e3 * least.memory,
                "limit_pct": 1e5 * least.overlapped / time.median_ms,
                "limit_serial_pct": 1e5 * least.serial / time.median_ms,
                "limit_source": limits.source,
            }
        images_per_s = 1e3 * row.batch / time.median_ms
        return replace(row, **asdict(time), images_per_s=images_per_s, **columns)


def show_progress(action: str) -> None:
    """Show an action on stderr: in one line on a terminal, which "" clears; elsewhere only the warm-ups."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{action}", end="", file=sys.stderr, flush=True)
    elif "warming up" in action:
        print(action, file=sys.stderr, flush=True)
