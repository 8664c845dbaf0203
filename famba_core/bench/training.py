"""The section on training: the whole step under the paper's fusion strategies, and the savings of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from famba_core.bench.cases import FusionCase, fusion_cases, token_ratio
from famba_core.bench.fusion_share import fusion_ms
from famba_core.bench.rows import BenchRow
from famba_core.bench.session import Entry, Session
from famba_core.bench.timing import Call
from famba_core.bench.workloads import Workload, saved_bytes, step_with_peak
from famba_core.cost.measure import mib
from famba_core.cost.work import StepSettings, predicted_ratios, step_cost
from famba_core.fusion.schedule import resolve

RECOMPUTED = ("none", "upper")  # strategies that are also measured with recompute


def run_step(session: Session) -> None:
    """Measure one group per precision: every strategy, two of them also with recompute, and the peers unfused."""
    cases = fusion_cases(session.model)
    for precision in session.precisions:
        load = session.workload(precision)
        recomputed = [case for case in cases if case.fusion.strategy in RECOMPUTED]
        peers = [session.workload(precision, i) for i in session.implementations if i.is_peer]
        entries = [step_entry(session, "step", case, load) for case in cases]
        entries += [step_entry(session, "step", case, load, recompute=True) for case in recomputed]
        entries += [step_entry(session, "step", cases[0], peer) for peer in peers]
        session.measure(entries, session.rounds(least=3, budget_s=60), unfused)


def step_entry(session: Session, section: str, case: FusionCase, load: Workload, *, recompute: bool = False) -> Entry:
    """Return an entry for the training step of a strategy."""
    model, batch, is_peer = load.model, load.batch, load.implementation.is_peer
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


def unfused(rows: Sequence[BenchRow]) -> BenchRow | None:
    """Return the row to which the ratios of a group of steps are."""
    plain = (row for row in rows if row.strategy == "none" and not row.recompute and not row.peer)
    return next(plain, None)
