"""The section on limits: how near layer, model and training step come to what the device can do at most."""

from __future__ import annotations

from famba_core.bench.cases import fusion_cases
from famba_core.bench.kernels import layer_entry, model_entry
from famba_core.bench.peers import AUTO
from famba_core.bench.session import Session
from famba_core.bench.training import step_entry
from famba_core.bench.workloads import layer_call


def run_roofline(session: Session) -> None:
    """Measures what no section before has measured already."""
    case = fusion_cases(session.model)[0]
    done = {(row.section, row.precision) for row in session.rows if row.limit_pct is not None}
    for precision in session.precisions:
        entries = []
        if ("mixer", precision) not in done:
            entries.append(layer_entry(session, "roofline", "layer", AUTO, precision, layer_call))
        if ("model", precision) not in done:
            entries.append(model_entry(session, "roofline", "model", AUTO, precision, session.batch))
        if ("step", precision) not in done:
            entries.append(step_entry(session, "roofline", case, precision, AUTO))
        if entries:
            session.measure(entries, session.rounds(least=3, budget_s=15), lambda rows: None)
