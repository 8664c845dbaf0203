"""Lists a plan's trials in running order: what each is, what is stored, and the price of what is missing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sweep.plan.model import Plan, Trial
from sweep.price.estimate import Price
from sweep.price.forecast import Forecast

NAMED_CASES = 4  # of one trial; in a space on small images dozens may share it


@dataclass(frozen=True, kw_only=True)
class ListedTrial:
    """A trial of a plan, with its price."""

    trial_id: str
    cases: str  # the first few that share the trial
    schedule: str
    reduced_tokens: int
    tokens_per_image: int  # seen by the mixers, summed over the layers
    flops_ratio: float
    memory_gib: float
    device_hours: float
    status: str | None  # of its stored result; None if it is missing
    place: int | None  # from 1, among the missing trials in running order; None where a search chooses
    total_hours: float | None  # device-hours until it has ended, if one trial after another is counted
    ends: float | None  # hours from the start of the run, with as many at a time as there are slots
    fits: bool  # False if a limit of the pool ends the run before the trial has ended


def list_prices(
    plan: Plan, price: Price, trials: Sequence[Trial], statuses: Mapping[str, str], run: Forecast, cut: float | None
) -> Iterator[ListedTrial]:
    """Yield the given trials of a plan, in this order.

    Args:
        statuses: of stored results, by trial_id.
        run: the forecast of the missing trials.
        cut: hours after which a limit ends the run; None without a limit, or if all trials end before.
    """
    labels: dict[str, list[str]] = {}
    for case in plan.cases:
        labels.setdefault(case.trial_id, []).append(case.label)
    several_seeds = len({trial.train.seed for trial in plan.trials}) > 1
    candidates = {trial.trial_id for trial in plan.candidates}
    places = {trial.trial_id: i for i, trial in enumerate(run.trials) if trial.trial_id not in candidates}
    fitting = None if cut is None else set(run.fitting(cut))
    totals = list(itertools.accumulate(priced.device_hours for priced in price.of(run.trials)))
    for trial in trials:
        name, priced = trial.trial_id, price.trials[trial.trial_id]
        i = places.get(name)
        yield ListedTrial(
            trial_id=name,
            cases=_join_labels(labels[name]) + (f", seed {trial.train.seed}" if several_seeds else ""),
            schedule=compact_schedule(trial.fusion.schedule),
            reduced_tokens=sum(trial.fusion.schedule),
            tokens_per_image=priced.tokens_per_image,
            flops_ratio=priced.flops_ratio,
            memory_gib=priced.memory_gib,
            device_hours=priced.device_hours,
            status=statuses.get(name) if i is None else None,
            place=None if i is None else i + 1,
            total_hours=None if i is None else totals[i],
            ends=None if i is None else run.ends[i],
            fits=i is None or fitting is None or i + 1 in fitting,
        )


def _join_labels(labels: Sequence[str]) -> str:
    more = len(labels) - NAMED_CASES
    return "; ".join(labels if more <= 0 else [*labels[:NAMED_CASES], f"and {more} more"])


def compact_schedule(schedule: Sequence[int]) -> str:
    """Return a schedule in short: "6..24: 9 each", "2,4..24: 14 each", "6..24: 2 3 3 2 ...", or "-" without fusion."""
    layers = [layer for layer, r in enumerate(schedule, start=1) if r]
    if not layers:
        return "-"
    removed = [schedule[layer - 1] for layer in layers]
    steps = {b - a for a, b in itertools.pairwise(layers)}
    if steps == {1}:
        place = f"{layers[0]}..{layers[-1]}"
    elif len(steps) == 1:
        place = f"{layers[0]},{layers[1]}..{layers[-1]}"
    else:
        place = ",".join(map(str, layers))
    amount = f"{removed[0]} each" if len(set(removed)) == 1 else " ".join(map(str, removed))
    return f"{place}: {amount}"
