"""What all sections share: the device, the sizes, and the rows measured so far."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch

from famba_core.bench.cases import model_config
from famba_core.bench.limits import device_limits
from famba_core.bench.peers import Implementation, implementations, versions
from famba_core.bench.rows import BenchRow, Status, with_ratios
from famba_core.bench.settings import DEFAULT_BATCH, DEFAULT_PRECISION, QUICK_BATCH, Settings
from famba_core.bench.timing import Call, Contender, Rounds, interleave, release
from famba_core.bench.workloads import Workload
from famba_core.config import ModelConfig, Precision
from famba_core.cost.roofline import Limits, Work, least_times
from famba_core.device import choose_device, device_name, prepare

GREEDY_SHARE = 0.25  # of the device's memory, that a peer may fill with what only it keeps

Reference = Callable[[Sequence[BenchRow]], BenchRow | None]


@dataclass(kw_only=True)
class Entry:
    """A contender, and the row that it will be."""

    contender: Contender
    row: BenchRow
    work: Work | None = None  # of one call, for the limits
    extras: dict[str, Any] = field(default_factory=dict)  # columns that are found while the contender is built


class Session:
    """One run of the benchmark.

    Raises ConfigError for a device that is not there and a precision that it lacks.
    """

    def __init__(self, settings: Settings, progress: Callable[[str], None] = lambda doing: None):
        self.device = choose_device(settings.device)
        kind = self.device.type
        self.precisions = cast(tuple[Precision, ...], settings.precision or DEFAULT_PRECISION[kind])
        for precision in self.precisions:
            prepare(self.device, precision, settings.threads)
        self.quick = settings.quick
        self.batch = settings.batch or (QUICK_BATCH if settings.quick else DEFAULT_BATCH)[kind]
        self.model: ModelConfig = model_config(settings.backbone)
        self.implementations: list[Implementation] = implementations(self.device, self.model.sizes)
        self.rows: list[BenchRow] = []
        self.progress = progress
        self.device_name = device_name(self.device)
        self.threads = torch.get_num_threads() if kind == "cpu" else None
        self.versions = versions()
        self.limits: Callable[[Precision], Limits] = functools.cache(lambda p: device_limits(self.device, p))

    def rounds(self, *, least: int = 5, budget_s: float = 20.0) -> Rounds:
        calls = 1 if self.device.type == "cpu" else 5
        if self.quick:
            return Rounds(warmup=1, least=2, most=5, budget_s=min(1.0, budget_s), calls=calls)
        return Rounds(warmup=2 if least > 3 else 1, least=least, budget_s=budget_s, calls=calls)

    def workload(self, *, backend: str, precision: Precision, model: ModelConfig, batch: int) -> Workload:
        return Workload(model=model, batch=batch, precision=precision, device=self.device, backend=backend)

    def entry(
        self,
        *,
        section: str,
        name: str,
        load: Workload,
        build: Callable[[dict[str, Any]], Call],
        peer: bool = False,
        missing: str | None = None,
        layers: int | None = None,
        work: Work | None = None,
        **columns: Any,
    ) -> Entry:
        """build: makes the call, and may fill in columns; missing: why it is not even tried."""
        extras: dict[str, Any] = {}
        precision = load.precision
        contender = Contender(
            name=f"{name} ({load.backend}, {precision}, {load.batch} images)",
            build=lambda: build(extras),
            prepare=lambda: prepare(self.device, precision, None),
            skipped=missing,
        )
        row = BenchRow(
            section=section,
            name=name,
            backend=load.backend,
            peer=peer,
            backbone=load.model.backbone,
            precision=precision,
            batch=load.batch,
            tokens=load.model.num_tokens,
            layers=layers or load.model.sizes.depth,
            device=self.device_name,
            threads=self.threads,
            versions=self.versions,
            **columns,
        )
        return Entry(contender=contender, row=row, work=work, extras=extras)

    def measure(self, entries: Sequence[Entry], rounds: Rounds, reference: Reference) -> None:
        """Time the entries in turns and keep their rows, also those of a run that is interrupted."""
        contenders = [entry.contender for entry in entries]
        try:
            for doing in interleave(contenders, device=self.device, rounds=rounds):
                self.progress(f"{entries[0].row.section}: {doing}")
        finally:
            rows = [self._finished(entry) for entry in entries if _was_tried(entry.contender)]
            found = reference([row for row in rows if row.status == "measured"])
            self.rows += rows if found is None else with_ratios(rows, found)
            release(contenders, self.device)

    def fits(self, implementation: Implementation, model: ModelConfig, batch: int, layers: int) -> bool:
        """Whether what a greedy peer keeps leaves most of the device's memory free."""
        needed = batch * layers * implementation.bytes_per_image(model.sizes, model.num_tokens)
        return needed <= GREEDY_SHARE * self.memory_bytes

    @functools.cached_property
    def memory_bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.get_device_properties(self.device).total_memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def _finished(self, entry: Entry) -> BenchRow:
        contender, row = entry.contender, entry.row
        time = contender.time
        if contender.skipped or contender.failed:
            status: Status = "failed" if contender.failed else "skipped"
            return replace(row, status=status, note=contender.failed or contender.skipped)
        assert time is not None
        row = replace(
            row,
            median_ms=time.median_ms,
            q25_ms=time.q25_ms,
            q75_ms=time.q75_ms,
            n=time.n,
            images_per_s=1e3 * row.batch / time.median_ms,
            **entry.extras,
        )
        if row.fusion_ms is not None:
            row = replace(row, fusion_pct=100 * row.fusion_ms / time.median_ms)
        return row if entry.work is None else self._with_limits(row, entry.work, time.median_ms)

    def _with_limits(self, row: BenchRow, work: Work, median_ms: float) -> BenchRow:
        limits = self.limits(cast(Precision, row.precision))
        least = least_times(work, limits)
        return replace(
            row,
            limit_matmul_ms=1e3 * least.matmul,
            limit_vector_ms=1e3 * least.vector,
            limit_memory_ms=1e3 * least.memory,
            limit_pct=1e5 * least.overlapped / median_ms,
            limit_serial_pct=1e5 * least.serial / median_ms,
            limit_source=limits.source,
        )


def _was_tried(contender: Contender) -> bool:
    return bool(contender.times_ms or contender.skipped or contender.failed)
