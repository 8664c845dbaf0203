"""The section on growth: one layer of every implementation by tokens and by batch, the whole model by depth."""

from __future__ import annotations

from dataclasses import replace

from famba_core.bench.cases import GROWTH_BATCHES, GROWTH_DEPTHS, GROWTH_SIDES, backbone_of_depth
from famba_core.bench.kernels import layer_entry, with_peak
from famba_core.bench.peers import AUTO
from famba_core.bench.rows import fastest
from famba_core.bench.session import Session
from famba_core.bench.workloads import layer_call, model_call
from famba_core.config import ModelConfig

TOKENS, BATCH, DEPTH = "growth-tokens", "growth-batch", "growth-depth"


def run_growth(session: Session) -> None:
    """A group of turns for each size; more tokens and images than memory allows are left out as failed."""
    sides = _some(session, GROWTH_SIDES)
    patch = session.model.patch
    for side in sides:
        model = replace(session.model, image_size=side * patch)
        _layers(session, TOKENS, f"{model.num_tokens} tokens", model, session.batch)
    for batch in _some(session, GROWTH_BATCHES):
        _layers(session, BATCH, f"batch {batch}", session.model, batch)
    for depth in _some(session, GROWTH_DEPTHS):
        _whole_model(session, depth)


def _layers(session: Session, section: str, size: str, model: ModelConfig, batch: int) -> None:
    entries = [
        layer_entry(session, section, size, implementation, precision, layer_call, model=model, batch=batch)
        for precision in session.precisions
        for implementation in session.implementations
        if implementation.missing is None  # the other sections say so
    ]
    session.measure(entries, session.rounds(least=3, budget_s=3), fastest)


def _whole_model(session: Session, depth: int) -> None:
    with backbone_of_depth(session.model.backbone, depth) as backbone:
        model = replace(session.model, backbone=backbone)
        entries = []
        for precision in session.precisions:
            load = session.workload(backend=AUTO.backend, precision=precision, model=model, batch=session.batch)
            build = with_peak(load, model_call)
            entries.append(session.entry(section=DEPTH, name=f"{depth} layers", load=load, build=build))
        session.measure(entries, session.rounds(least=3, budget_s=3), lambda rows: None)


def _some(session: Session, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """All sizes, or where it must be quick, a small and a middle one."""
    return (sizes[0], sizes[len(sizes) // 2 - 1]) if session.quick else sizes
