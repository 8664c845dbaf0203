"""The section on training: the whole step under the paper's fusion strategies, and what each of them saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from famba_core.bench.cases import FusionCase, fusion_cases, token_ratio
from famba_core.bench.fusion_share import fusion_ms
from famba_core.bench.peers import AUTO, Implementation
from famba_core.bench.rows import BenchRow
from famba_core.bench.session import Entry, Session
from famba_core.bench.timing import Call
from famba_core.bench.workloads import saved_bytes, step_with_peak
from famba_core.config import Precision
from famba_core.cost.measure import mib
from famba_core.cost.work import StepSettings, predicted_ratios, step_cost
from famba_core.fusion.schedule import resolve

RECOMPUTED = ("none", "upper")  # strategies that are measured with recompute too


def run_step(session: Session) -> None:
    """One group of turns for each precision: every strategy, two of them with recompute, and the peers unfused."""
    cases = fusion_cases(session.model)
    for precision in session.precisions:
        entries = [step_entry(session, "step", case, precision, AUTO) for case in cases]
        entries += [
            step_entry(session, "step", case, precision, AUTO, recompute=True)
            for case in cases
            if case.fusion.strategy in RECOMPUTED
        ]
        entries += [step_entry(session, "step", cases[0], precision, i) for i in session.implementations if i.peer]
        session.measure(entries, session.rounds(least=3, budget_s=60), unfused)


def step_entry(
    session: Session,
    section: str,
    case: FusionCase,
    precision: Precision,
    implementation: Implementation,
    *,
    recompute: bool = False,
) -> Entry:
    model, batch = session.model, session.batch
    schedule = resolve(case.fusion, model.token_grid).schedule
    settings = StepSettings(batch=batch, precision=precision, recompute=recompute)
    predicted = step_cost(model, schedule, settings)
    # the paper's ratios are of its code, which keeps all activations
    published = not recompute and not implementation.peer
    missing = implementation.missing
    if missing is None and not session.fits(implementation, model, batch, model.sizes.depth):
        missing = f"would need more than its share of the memory for {batch} images"
    ratios: dict[str, Any] = {"predicted_peak_mib": mib(predicted.peak_bytes)}
    if not implementation.peer:
        time_ratio, memory_ratio = predicted_ratios(model, schedule, session.limits(precision), settings)
        ratios |= {"predicted_time_ratio": time_ratio, "predicted_memory_ratio": memory_ratio}
    load = session.workload(backend=implementation.backend, precision=precision, model=model, batch=batch)

    def build(extras: dict[str, Any]) -> Call:
        extras["saved_bytes_per_image"] = saved_bytes(load, case.fusion, recompute=recompute)
        extras["saved_bytes_per_token"] = extras["saved_bytes_per_image"] / tokens
        if sum(schedule) and not recompute:
            extras["fusion_ms"] = fusion_ms(load, case.fusion)
        step, extras["peak_mib"] = step_with_peak(load, case.fusion, recompute=recompute)
        return step

    name = case.name + (", recompute" if recompute else "") + (f" on {load.backend}" if implementation.peer else "")
    ratio = token_ratio(model, case.fusion)
    tokens = ratio * model.sizes.depth * model.num_tokens
    return session.entry(
        section=section,
        name=name,
        load=load,
        build=build,
        peer=implementation.peer,
        missing=missing,
        work=None if implementation.peer else predicted.work,
        strategy=case.fusion.strategy,
        schedule=schedule,
        reduced_tokens=sum(schedule),
        recompute=recompute,
        token_ratio=ratio,
        paper_time_ratio=case.paper_time_ratio if published else None,
        paper_memory_ratio=case.paper_memory_ratio if published else None,
        **ratios,
    )


def unfused(rows: Sequence[BenchRow]) -> BenchRow | None:
    """What the ratios of a group of steps are to."""
    plain = (row for row in rows if row.strategy == "none" and not row.recompute and not row.peer)
    return next(plain, None)
