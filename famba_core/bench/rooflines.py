"""The section on limits: how close layer, model and training step come to the peak rates of the device."""

from __future__ import annotations

from famba_core.bench.cases import fusion_cases
from famba_core.bench.kernels import layer_entry, model_entry
from famba_core.bench.session import Session
from famba_core.bench.training import step_entry


def run_roofline(session: Session) -> None:
    """Measure layer, model and step, unless a section before has measured them."""
    case = fusion_cases(session.model)[0]
    done = {(row.section, row.precision) for row in session.rows if row.limit_pct is not None}
    for precision in session.precisions:
        load = session.workload(precision)
        entries = []
        if ("mixer", precision) not in done:
            entries.append(layer_entry(session, "roofline", "layer", load))
        if ("model", precision) not in done:
            entries.append(model_entry(session, "roofline", "model", load))
        if ("step", precision) not in done:
            entries.append(step_entry(session, "roofline", case, load))
        if entries:
            session.measure(entries, session.rounds(least=3, budget_s=15))
