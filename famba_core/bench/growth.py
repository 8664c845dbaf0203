"""The section on growth: one layer of every implementation by tokens and by batch, the whole model by depth."""

from __future__ import annotations

from dataclasses import replace

from famba_core.bench.cases import GROWTH_BATCHES, GROWTH_DEPTHS, GROWTH_SIDES, backbone_of_depth
from famba_core.bench.kernels import build_with_peak, layer_entry
from famba_core.bench.rows import fastest
from famba_core.bench.session import Session
from famba_core.bench.workloads import model_call
from famba_core.config import ModelConfig

TOKENS, BATCH, DEPTH = "growth-tokens", "growth-batch", "growth-depth"


def run_growth(session: Session) -> None:
    """Measure a group for each size; sizes that do not fit in memory become failed rows."""
    for side in _some(session, GROWTH_SIDES):
        model = replace(session.model, image_size=side * session.model.patch)
        _measure_layers(session, TOKENS, f"{model.num_tokens} tokens", model, session.batch)
    for batch in _some(session, GROWTH_BATCHES):
        _measure_layers(session, BATCH, f"batch {batch}", session.model, batch)
    for depth in _some(session, GROWTH_DEPTHS):
        _measure_model(session, depth)


def _measure_layers(session: Session, section: str, size: str, model: ModelConfig, batch: int) -> None:
    loads = [
        replace(session.workload(precision, implementation), model=model, batch=batch)
        for precision in session.precisions
        for implementation in session.implementations
        if implementation.missing is None  # other sections report it
    ]
    entries = [layer_entry(session, section, size, load) for load in loads]
    session.measure(entries, session.rounds(least=3, budget_s=3), fastest)


def _measure_model(session: Session, depth: int) -> None:
    with backbone_of_depth(session.model.backbone, depth) as backbone:
        model = replace(session.model, backbone=backbone)
        loads = [replace(session.workload(precision), model=model) for precision in session.precisions]
        entries = [session.entry(DEPTH, f"{depth} layers", load, build_with_peak(load, model_call)) for load in loads]
        session.measure(entries, session.rounds(least=3, budget_s=3))


def _some(session: Session, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return all sizes, or for a quick run, the smallest and one in the middle."""
    return (sizes[0], sizes[len(sizes) // 2 - 1]) if session.quick else sizes
