"""Says the price of a plan in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from famba_core.cost.data_sheets import similar_type
from sweep.plan.model import Plan, Trial
from sweep.price.device import PoolDevice
from sweep.price.estimate import Price, device_hours, trials_to_run, wall_hours
from sweep.text import clock

LISTED_CANDIDATES = 20  # of a search, unless a higher limit is given


def list_trials(plan: Plan, limit: int | None) -> list[Trial]:
    """Return the trials that `famba-sweep plan` shows one by one."""
    certain, _ = trials_to_run(plan, limit)
    return [*certain, *plan.candidates[: max(limit or 0, LISTED_CANDIDATES)]]


def headline(plan: Plan, limit: int | None, *, left_out: int) -> str:
    """Say how many trials would run and how many are listed. `left_out`: cases that cannot run."""
    certain, chosen = trials_to_run(plan, limit)
    name = f"{plan.study}, profile {plan.profile}: "
    without = f" ({left_out} combinations that cannot run are left out)" if left_out else ""
    if plan.search is None:
        return f"{name}{len(certain)} of {len(plan.trials)} trials{without}"
    possible, shown = len(plan.candidates), len(list_trials(plan, limit)) - len(certain)
    which = "all" if shown == possible else f"the first {shown}"
    return (
        f"{name}a search ({plan.search.sampler}) tries {chosen} of {possible} candidates{without}, "
        f"baselines: {len(certain)}; {which} candidates are listed"
    )


def price_lines(plan: Plan, price: Price, limit: int | None) -> Iterator[str]:
    """Yield the device-hours, the wall time, and warnings of limits of the pool that are below these."""
    pool, device = plan.pool, price.device
    total = device_hours(plan, price, limit)
    unit, (low, expected, high) = _format_hours(total)
    if device.gpu:
        unit = unit.replace("hours", "GPU-hours")
    yield f"time: {low} to {high}, about {expected} {unit} of one {price.unit} ({price.calibration.sentence})"
    if device.gpu and device.name != price.unit:
        yield _explain_unit(device)
    concurrent = min(device.slots or pool.max_concurrent or 1, pool.max_concurrent or device.slots or 1)
    wall = wall_hours(plan, price, limit, concurrent=concurrent)
    place = "on this machine" if device.slots else "where enough devices are free"
    early = "; early stopping saves some of it" if any(trial.early_stop for trial in plan.trials) else ""
    yield f"wall time: about {_say_hours(wall)} {place}, {concurrent} at a time, evaluation included{early}"
    resume = "; the same command then continues with the rest"
    if pool.time_limit_h is not None and pool.time_limit_h < wall:
        yield f"warning: the time limit is {pool.time_limit_h:g} hours{resume}"
    if pool.gpu_hours is not None and pool.gpu_hours < total.expected:
        yield f"warning: the limit is {pool.gpu_hours:g} GPU-hours{resume}"
    longest = max(trial.hours for trial in price.trials.values())
    if pool.trial_time_limit_h is not None and pool.trial_time_limit_h < longest:
        yield (
            f"warning: the longest trial takes about {_say_hours(longest)}, and a trial that runs longer than "
            f"{pool.trial_time_limit_h:g} hours is stored as failed"
        )


def _explain_unit(device: PoolDevice) -> str:
    if device.name is None:
        return "priced as an A100, because the GPU is not known; --accelerator-type names it"
    close = similar_type(device.name)
    meant = f" (did you mean {close}?)" if close else ""
    return f"priced as an A100, because no data sheet of a GPU named {device.name} is known{meant}"


def _format_hours(hours: Sequence[float]) -> tuple[str, list[str]]:
    """Return (unit, numbers): hours as 2.3 or 210, or as 12:30 if all are below one."""
    if max(hours) < 1:
        return "(minutes:seconds)", [clock(3600 * h) for h in hours]
    return "hours", [f"{h:.0f}" if h >= 100 else f"{h:.1f}" for h in hours]


def _say_hours(hours: float) -> str:
    unit, (number,) = _format_hours([hours])
    return f"{number} {unit}"
