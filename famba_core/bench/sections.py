"""The sections of the benchmark: which calls each of them measures together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from famba_core.bench.fusion_share import fusion_ms
from famba_core.bench.machine import AUTO, PEERS
from famba_core.bench.rows import BenchRow, fastest
from famba_core.bench.session import Entry, Session
from famba_core.bench.settings import FusionCase, backbone_of_depth, fusion_cases, token_ratio
from famba_core.bench.timing import Call
from famba_core.bench.workloads import (
    Workload,
    layer_call,
    model_call,
    peak_mib,
    saved_bytes,
    scan_call,
    step_with_peak,
)
from famba_core.config import ModelConfig
from famba_core.cost.measure import mib
from famba_core.cost.work import StepSettings, image_work, layer_work, predicted_ratios, step_cost
from famba_core.fusion.schedule import resolve

RECOMPUTED = ("none", "upper")  # strategies that are also measured with recompute
# patches along a side: 65, 145, 197, 257, 401, 577 and 785 tokens
GROWTH_SIDES = (8, 12, 14, 16, 20, 24, 28)
GROWTH_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
GROWTH_DEPTHS = (1, 2, 4, 8, 16, 24, 48)
TOKENS, BATCH, DEPTH = "growth-tokens", "growth-batch", "growth-depth"


def compare_layers(session: Session, *, section: str, make: Callable[[Workload], Call]) -> None:
    """Measure one layer, or its scan alone, on every backend and peer."""
    loads = [
        session.workload(precision, backend)
        for precision in session.precisions
        for backend in (AUTO, *session.backends)
    ]
    entries = [_layer_entry(session, section, load.backend, load, make) for load in loads]
    session.measure(entries, session.rounds(), fastest)


def compare_models(session: Session) -> None:
    """Measure the model. A peer that needs much memory gets fewer images, and "auto" also runs with as few."""
    entries = []
    for precision in session.precisions:
        batches = {session.batch}
        for backend, missing in session.backends.items():
            load = session.workload(precision, backend)
            while load.batch > 1 and not session.fits(load, session.model.sizes.depth):
                load = replace(load, batch=load.batch // 2)
            entries.append(_model_entry(session, "model", backend, load))
            if missing is None:
                batches.add(load.batch)
        entries += [
            _model_entry(session, "model", AUTO, replace(session.workload(precision), batch=batch))
            for batch in sorted(batches, reverse=True)
        ]
    session.measure(entries, session.rounds(least=3, budget_s=40), fastest)


def compare_strategies(session: Session) -> None:
    """Measure the training step, a group per precision: every strategy, two with recompute, and peers unfused."""
    cases = fusion_cases(session.model)
    for precision in session.precisions:
        load = session.workload(precision)
        recomputed = [case for case in cases if case.fusion.strategy in RECOMPUTED]
        peers = [session.workload(precision, backend) for backend in session.backends if backend in PEERS]
        entries = [_step_entry(session, "step", case, load) for case in cases]
        entries += [_step_entry(session, "step", case, load, recompute=True) for case in recomputed]
        entries += [_step_entry(session, "step", cases[0], peer) for peer in peers]
        session.measure(entries, session.rounds(least=3, budget_s=60), _unfused)


def measure_growth(session: Session) -> None:
    """Measure a group per size: one layer by tokens and by batch, and the model by depth.

    Sizes that do not fit in memory become failed rows.
    """
    for side in _some(session, GROWTH_SIDES):
        model = replace(session.model, image_size=side * session.model.patch)
        _measure_layers(session, TOKENS, f"{model.num_tokens} tokens", model, session.batch)
    for batch in _some(session, GROWTH_BATCHES):
        _measure_layers(session, BATCH, f"batch {batch}", session.model, batch)
    for depth in _some(session, GROWTH_DEPTHS):
        with backbone_of_depth(session.model.backbone, depth) as backbone:
            model = replace(session.model, backbone=backbone)
            loads = [replace(session.workload(precision), model=model) for precision in session.precisions]
            entries = [
                session.entry(DEPTH, f"{depth} layers", load, _build_with_peak(load, model_call)) for load in loads
            ]
            session.measure(entries, session.rounds(least=3, budget_s=3))


def measure_limits(session: Session) -> None:
    """Measure layer, model and step for their share of the device's limits, unless a section before has."""
    case = fusion_cases(session.model)[0]
    entry_of: dict[str, Callable[[Workload], Entry]] = {
        "mixer": lambda load: _layer_entry(session, "roofline", "layer", load),
        "model": lambda load: _model_entry(session, "roofline", "model", load),
        "step": lambda load: _step_entry(session, "roofline", case, load),
    }
    done = {(row.section, row.precision) for row in session.rows if row.limit_pct is not None}
    for precision in session.precisions:
        load = session.workload(precision)
        entries = [make(load) for section, make in entry_of.items() if (section, precision) not in done]
        if entries:
            session.measure(entries, session.rounds(least=3, budget_s=15))


RUNNERS: dict[str, Callable[[Session], None]] = {
    "scan": partial(compare_layers, section="scan", make=scan_call),
    "mixer": partial(compare_layers, section="mixer", make=layer_call),
    "model": compare_models,
    "step": compare_strategies,
    "growth": measure_growth,
    "roofline": measure_limits,
}


def _measure_layers(session: Session, section: str, size: str, model: ModelConfig, batch: int) -> None:
    loads = [
        replace(session.workload(precision, backend), model=model, batch=batch)
        for precision in session.precisions
        for backend, missing in session.backends.items()
        if missing is None  # other sections report it
    ]
    entries = [_layer_entry(session, section, size, load) for load in loads]
    session.measure(entries, session.rounds(least=3, budget_s=3), fastest)


def _some(session: Session, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return all sizes, or for a quick run, the smallest and one in the middle."""
    return (sizes[0], sizes[len(sizes) // 2 - 1]) if session.quick else sizes


def _layer_entry(
    session: Session, section: str, name: str, load: Workload, make: Callable[[Workload], Call] = layer_call
) -> Entry:
    """Return an entry for one whole layer, or for its scan if that is what `make` makes."""
    model, skipped = load.model, None
    if not session.fits(load, layers=1):
        skipped = f"would need more than its share of the memory for {load.batch} images of {model.num_tokens} tokens"
    settings = StepSettings(precision=load.precision)
    work = layer_work(model, model.num_tokens, settings=settings) * load.batch if make is layer_call else None
    return session.entry(section, name, load, _build_with_peak(load, make), skipped=skipped, layers=1, work=work)


def _model_entry(session: Session, section: str, name: str, load: Workload) -> Entry:
    """Return an entry for forward and backward of the whole model without fusion."""
    work = image_work(load.model, [0] * load.model.sizes.depth, StepSettings(precision=load.precision)) * load.batch
    return session.entry(section, name, load, _build_with_peak(load, model_call), work=work, token_ratio=1.0)


def _build_with_peak(load: Workload, make: Callable[[Workload], Call]) -> Callable[[dict[str, Any]], Call]:
    """Return a function that makes the call and adds its peak memory to the columns."""

    def build(columns: dict[str, Any]) -> Call:
        call = make(load)
        call()  # allocates workspaces and other memory that is not the call's
        columns["peak_mib"] = peak_mib(call, load.device)
        return call

    return build


def _step_entry(session: Session, section: str, case: FusionCase, load: Workload, *, recompute: bool = False) -> Entry:
    """Return an entry for the training step of a strategy."""
    model, batch, is_peer = load.model, load.batch, load.is_peer
    schedule = resolve(case.fusion, model.token_grid).schedule
    ratio = token_ratio(model, case.fusion)
    settings = StepSettings(batch=batch, precision=load.precision, recompute=recompute)
    predicted = step_cost(model, schedule, settings)
    columns: dict[str, Any] = {"predicted_peak_mib": mib(predicted.peak_bytes)}
    if not is_peer:
        columns["predicted_time_ratio"], columns["predicted_memory_ratio"] = predicted_ratios(
            model, schedule, session.limits(load.precision), settings
        )
    if not is_peer and not recompute:  # the code of the paper does not recompute
        columns |= {"paper_time_ratio": case.paper_time_ratio, "paper_memory_ratio": case.paper_memory_ratio}

    def build(facts: dict[str, Any]) -> Call:
        facts["saved_bytes_per_image"] = saved_bytes(load, case.fusion, recompute=recompute)
        facts["saved_bytes_per_token"] = facts["saved_bytes_per_image"] / (ratio * model.sizes.depth * model.num_tokens)
        if sum(schedule) and not recompute:
            facts["fusion_ms"] = fusion_ms(load, case.fusion)
        step, facts["peak_mib"] = step_with_peak(load, case.fusion, recompute=recompute)
        return step

    fits = session.fits(load, model.sizes.depth)
    return session.entry(
        section,
        case.name + (", recompute" if recompute else "") + (f" on {load.backend}" if is_peer else ""),
        load,
        build,
        skipped=None if fits else f"would need more than its share of the memory for {batch} images",
        work=predicted.work,
        strategy=case.fusion.strategy,
        schedule=schedule,
        reduced_tokens=sum(schedule),
        recompute=recompute,
        token_ratio=ratio,
        **columns,
    )


def _unfused(rows: Sequence[BenchRow]) -> BenchRow | None:
    """Return the row to which the ratios of a group of steps are."""
    plain = (row for row in rows if row.strategy == "none" and not row.recompute and not row.peer)
    return next(plain, None)
