"""The sections that compare implementations: scan, layer and model, every backend beside every peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from famba_core.bench.memory import peak_mib
from famba_core.bench.peers import AUTO, Implementation
from famba_core.bench.rows import fastest
from famba_core.bench.session import Entry, Session
from famba_core.bench.timing import Call
from famba_core.bench.workloads import Workload, layer_call, model_call, scan_call
from famba_core.config import ModelConfig, Precision
from famba_core.cost.roofline import Work
from famba_core.cost.work import StepSettings, image_work, layer_work


def run_scan(session: Session) -> None:
    _run_layer(session, "scan", scan_call)


def run_mixer(session: Session) -> None:
    _run_layer(session, "mixer", layer_call)


def run_model(session: Session) -> None:
    """Greedy peers get fewer images, and the automatic choice as few beside them."""
    entries = []
    for precision in session.precisions:
        batches = {session.batch}
        for implementation in session.implementations:
            batch = session.batch
            while batch > 1 and not session.fits(implementation, session.model, batch, session.model.sizes.depth):
                batch //= 2
            entries.append(model_entry(session, "model", implementation.backend, implementation, precision, batch))
            if implementation.missing is None:
                batches.add(batch)
        entries += [
            model_entry(session, "model", AUTO.backend, AUTO, precision, batch)
            for batch in sorted(batches, reverse=True)
        ]
    session.measure(entries, session.rounds(least=3, budget_s=40), fastest)


def _run_layer(session: Session, section: str, make: Callable[[Workload], Call]) -> None:
    entries = [
        layer_entry(session, section, implementation.backend, implementation, precision, make)
        for precision in session.precisions
        for implementation in (AUTO, *session.implementations)
    ]
    session.measure(entries, session.rounds(), fastest)


def layer_entry(
    session: Session,
    section: str,
    name: str,
    implementation: Implementation,
    precision: Precision,
    make: Callable[[Workload], Call],
    *,
    model: ModelConfig | None = None,
    batch: int | None = None,
) -> Entry:
    """An entry for one layer's scan or for the whole layer, whichever `make` makes; without sizes, the session's."""
    model, batch = model or session.model, batch or session.batch
    missing = implementation.missing
    if missing is None and not session.fits(implementation, model, batch, layers=1):
        missing = f"would need more than its share of the memory for {batch} images of {model.num_tokens} tokens"
    load = session.workload(backend=implementation.backend, precision=precision, model=model, batch=batch)
    whole_layer = make is layer_call
    work = (
        layer_work(model, model.num_tokens, settings=StepSettings(precision=precision)) * batch if whole_layer else None
    )
    return session.entry(
        section=section,
        name=name,
        load=load,
        build=with_peak(load, make),
        peer=implementation.peer,
        missing=missing,
        layers=1,
        work=_unless_peer(implementation, work),
    )


def model_entry(
    session: Session, section: str, name: str, implementation: Implementation, precision: Precision, batch: int
) -> Entry:
    """An entry for forward and backward of the whole unfused model."""
    load = session.workload(backend=implementation.backend, precision=precision, model=session.model, batch=batch)
    schedule = [0] * session.model.sizes.depth
    return session.entry(
        section=section,
        name=name,
        load=load,
        build=with_peak(load, model_call),
        peer=implementation.peer,
        missing=implementation.missing,
        work=_unless_peer(
            implementation, image_work(session.model, schedule, StepSettings(precision=precision)) * batch
        ),
        token_ratio=1.0,
    )


def with_peak(load: Workload, make: Callable[[Workload], Call]) -> Callable[[dict[str, Any]], Call]:
    def build(extras: dict[str, Any]) -> Call:
        call = make(load)
        call()  # what is allocated once, such as workspaces, is not the call's
        extras["peak_mib"] = peak_mib(call, load.device)
        return call

    return build


def _unless_peer(implementation: Implementation, work: Work | None) -> Work | None:
    return None if implementation.peer else work
