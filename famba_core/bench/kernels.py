"""The sections that compare implementations: scan, layer and model, on every backend and peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from famba_core.bench.memory import peak_mib
from famba_core.bench.peers import AUTO
from famba_core.bench.rows import fastest
from famba_core.bench.session import Entry, Session
from famba_core.bench.timing import Call
from famba_core.bench.workloads import Workload, layer_call, model_call, scan_call
from famba_core.cost.work import StepSettings, image_work, layer_work


def run_scan(session: Session) -> None:
    """Measure the scan of one layer."""
    _compare_layers(session, "scan", scan_call)


def run_mixer(session: Session) -> None:
    """Measure one whole layer."""
    _compare_layers(session, "mixer", layer_call)


def run_model(session: Session) -> None:
    """Measure the model. A peer that needs much memory gets fewer images, and "auto" also runs with as few."""
    entries = []
    for precision in session.precisions:
        batches = {session.batch}
        for implementation in session.implementations:
            load = session.workload(precision, implementation)
            while load.batch > 1 and not session.fits(load, session.model.sizes.depth):
                load = replace(load, batch=load.batch // 2)
            entries.append(model_entry(session, "model", load.backend, load))
            if implementation.missing is None:
                batches.add(load.batch)
        entries += [
            model_entry(session, "model", AUTO.backend, replace(session.workload(precision), batch=batch))
            for batch in sorted(batches, reverse=True)
        ]
    session.measure(entries, session.rounds(least=3, budget_s=40), fastest)


def _compare_layers(session: Session, section: str, make: Callable[[Workload], Call]) -> None:
    loads = [
        session.workload(precision, implementation)
        for precision in session.precisions
        for implementation in (AUTO, *session.implementations)
    ]
    entries = [layer_entry(session, section, load.backend, load, make) for load in loads]
    session.measure(entries, session.rounds(), fastest)


def layer_entry(
    session: Session, section: str, name: str, load: Workload, make: Callable[[Workload], Call] = layer_call
) -> Entry:
    """Return an entry for one whole layer, or for its scan if that is what `make` makes."""
    model, skipped = load.model, None
    if not session.fits(load, layers=1):
        skipped = f"would need more than its share of the memory for {load.batch} images of {model.num_tokens} tokens"
    settings = StepSettings(precision=load.precision)
    work = layer_work(model, model.num_tokens, settings=settings) * load.batch if make is layer_call else None
    return session.entry(section, name, load, build_with_peak(load, make), skipped=skipped, layers=1, work=work)


def model_entry(session: Session, section: str, name: str, load: Workload) -> Entry:
    """Return an entry for forward and backward of the whole model without fusion."""
    work = image_work(load.model, [0] * load.model.sizes.depth, StepSettings(precision=load.precision)) * load.batch
    return session.entry(section, name, load, build_with_peak(load, model_call), work=work, token_ratio=1.0)


def build_with_peak(load: Workload, make: Callable[[Workload], Call]) -> Callable[[dict[str, Any]], Call]:
    """Return a function that makes the call and adds its peak memory to the columns."""

    def build(columns: dict[str, Any]) -> Call:
        call = make(load)
        call()  # allocates workspaces and other memory that is not the call's
        columns["peak_mib"] = peak_mib(call, load.device)
        return call

    return build
