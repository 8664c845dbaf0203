"""The price of a plan in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweep.plan.model import Plan, Trial
from sweep.price.estimate import Price, device_hours, trials_to_run, wall_hours
from sweep.text import clock

LISTED_CANDIDATES = 20  # of a search, where no limit asks for more


def listed(plan: Plan, limit: int | None) -> list[Trial]:
    """The trials that `famba-sweep plan` shows one by one."""
    certain, _ = trials_to_run(plan, limit)
    return [*certain, *plan.candidates[: max(limit or 0, LISTED_CANDIDATES)]]


def headline(plan: Plan, limit: int | None, *, left_out: int) -> str:
    """What would run, and how much of it is listed. `left_out`: combinations of a searched space that cannot run."""
    certain, chosen = trials_to_run(plan, limit)
    name = f"{plan.study}, profile {plan.profile}: "
    if plan.search is None:
        return f"{name}{len(certain)} of {len(plan.trials)} trials"
    without = f" ({left_out} combinations that cannot run are left out)" if left_out else ""
    possible, shown = len(plan.candidates), len(listed(plan, limit)) - len(certain)
    which = "all" if shown == possible else f"the first {shown}"
    return (
        f"{name}a search ({plan.search.sampler}) tries {chosen} of {possible} candidates{without}, "
        f"baselines: {len(certain)}; {which} candidates are listed"
    )


def price_lines(plan: Plan, priced: Price, limit: int | None) -> Iterator[str]:
    """The hours of a device, the time until all is done, and limits of the pool that are below these."""
    pool, device = plan.pool, priced.device
    total = device_hours(plan, priced, limit)
    unit, (low, about, high) = _hours([total.low, total.about, total.high])
    unit = unit.replace("hours", "GPU-hours") if device.gpu else unit
    yield f"time: {low} to {high}, about {about} {unit} of one {device.words} ({priced.calibration.sentence})"
    at_a_time = min(device.slots or pool.max_concurrent or 1, pool.max_concurrent or device.slots or 1)
    wall = wall_hours(plan, priced, limit, at_a_time=at_a_time)
    place = "on this machine" if device.slots else "where there is room for them"
    early = "; early stopping, which is not plural, saves some of it" if _stops_early(plan) else ""
    yield f"wall time: about {_spoken(wall)} {place}, {at_a_time} at a time, evaluation included{early}"
    again = "; what is left then, the same command goes on with"
    if pool.time_limit_h is not None and pool.time_limit_h < wall:
        yield f"warning: the time limit is {pool.time_limit_h:g} hours{again}"
    if pool.gpu_hours is not None and pool.gpu_hours < total.about:
        yield f"warning: the limit is {pool.gpu_hours:g} GPU-hours{again}"
    longest = max(trial.hours for trial in priced.trials.values())
    if pool.trial_time_limit_h is not None and pool.trial_time_limit_h < longest:
        yield (
            f"warning: the longest trial takes about {_spoken(longest)}, and a trial that runs longer than "
            f"{pool.trial_time_limit_h:g} hours is stored as failed"
        )


def _stops_early(plan: Plan) -> bool:
    return any(trial.early_stop for trial in plan.trials)


def _hours(hours: Sequence[float]) -> tuple[str, list[str]]:
    """(unit, numbers): hours as 2.3 or 210, or where all are below one as 12:30."""
    if max(hours) < 1:
        return "(minutes:seconds)", [clock(3600 * h) for h in hours]
    return "hours", [f"{h:.0f}" if h >= 100 else f"{h:.1f}" for h in hours]


def _spoken(hours: float) -> str:
    unit, (number,) = _hours([hours])
    return f"{number} {unit}"
