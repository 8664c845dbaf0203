"""Says the price of a plan in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from famba_core.cost.data_sheets import similar_type
from sweep.plan.model import Plan, Trial
from sweep.price.device import PoolDevice
from sweep.price.estimate import Price, device_hours, trials_to_run
from sweep.price.forecast import Forecast, forecast
from sweep.price.shopping_list import ListedTrial
from sweep.terminal import Heading
from sweep.text import clock, plural

LISTED_CANDIDATES = 20  # of a search, unless a higher limit is given
HEADINGS = (  # of the list of trials
    Heading("trial", rank=8),
    Heading("no.", numeric=True, rank=4),
    Heading("cases", min_width=25),
    Heading("tokens removed by layer", rank=5, min_width=22),
    Heading("removed", numeric=True, rank=9),
    Heading("tokens", numeric=True, rank=10),
    Heading("FLOPs", numeric=True, rank=7),
    Heading("GiB", numeric=True, rank=1),
    Heading("time", numeric=True),
    Heading("total", numeric=True, rank=2),
    Heading("ends", numeric=True, rank=3),
)
STATES = {"completed": "stored", "failed": "failed", "pruned": "ended early"}
GLOSSARY = (
    "no.: running order of the missing trials. tokens: seen by the mixers of all layers, per image. FLOPs: relative to "
    "no fusion. GiB: peak of a training step. time: of a device, evaluation included; total: its sum. ends: wall time"
)


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


def stored_line(plan: Plan, limit: int | None, statuses: Mapping[str, str], missing: Sequence[Trial]) -> str | None:
    """Say what is stored of the plan and what is missing; None if nothing is stored."""
    requested = plan.trials if plan.search else plan.trials[:limit]
    counts = Counter(statuses[trial.trial_id] for trial in requested if trial.trial_id in statuses)
    if not counts:
        return None
    again = " (run --retry-failed trains them again)" if counts["failed"] else ""
    stored = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    priced = ", priced below" if missing else ""
    return f"stored: {stored}{again}; missing: {len(missing)}{priced}"


def price_cells(plan: Plan, listed: Sequence[ListedTrial]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each listed trial under HEADINGS, with a line where a limit ends the run."""
    has_cut = False
    for trial in listed:
        if not trial.fits and not has_cut:
            yield ("", "", f"-- the limit of {limit_words(plan)} --", *[""] * (len(HEADINGS) - 3))
            has_cut = True
        place, total, ends = trial.place, trial.total_hours, trial.ends
        yield (
            trial.trial_id,
            "" if place is None else str(place),
            trial.cases,
            trial.schedule,
            str(trial.reduced_tokens),
            str(trial.tokens_per_image),
            f"{trial.flops_ratio:.3f}",
            f"{trial.memory_gib:.2f}",
            STATES[trial.status] if trial.status else clock(3600 * trial.device_hours),
            "" if total is None else clock(3600 * total),
            "" if ends is None else clock(3600 * ends),
        )


def price_lines(plan: Plan, price: Price, missing: Sequence[Trial]) -> Iterator[str]:
    """Yield the device-hours and the wall time of the missing trials, and what limits of the pool cut off."""
    if not missing:
        yield "nothing to train: every trial has a stored result"
        return
    pool, device = plan.pool, price.device
    unit, (low, expected, high) = _format_hours(device_hours(plan, price, missing))
    if device.gpu:
        unit = unit.replace("hours", "GPU-hours")
    source = price.calibration.sentence
    if from_stored := sum(price.calibration.find(trial) is not None for trial in missing):
        source = f"{from_stored} of {plural(len(missing), 'trial')} by their own stored times, {source}"
    yield f"time: {low} to {high}, about {expected} {unit} of one {price.unit} ({source}), evaluation included"
    if device.gpu and device.name != price.unit:
        yield _explain_unit(device)
    run = forecast(plan, price, missing)
    place = (
        "on this machine" if device.count else "where enough devices are free" if pool.max_concurrent else _one(price)
    )
    measuring = f", after {_say_hours(run.measuring)} of measuring" if run.measuring else ""
    early = "; early stopping saves some of it" if any(trial.early_stop for trial in missing) else ""
    yield f"wall time: about {_say_hours(run.wall_hours)} {place}, {run.concurrent} at a time{measuring}{early}"
    if (cut := run.cut(time_limit_h=pool.time_limit_h, gpu_hours=pool.gpu_hours)) is not None:
        yield _explain_cut(plan, run, cut)
    longest = max(trial.hours for trial in price.of(missing))
    if pool.trial_time_limit_h is not None and pool.trial_time_limit_h < longest:
        yield (
            f"warning: the longest trial takes about {_say_hours(longest)}, and a trial that runs longer than "
            f"{pool.trial_time_limit_h:g} hours is stored as failed"
        )


def limit_words(plan: Plan) -> str:
    """Return the limits of a run: "2 GPU-hours", "47 hours", or both."""
    pool = plan.pool
    limits = [] if pool.gpu_hours is None else [f"{pool.gpu_hours:g} GPU-hours"]
    return " or ".join(limits if pool.time_limit_h is None else [*limits, f"{pool.time_limit_h:g} hours"])


def _explain_cut(plan: Plan, run: Forecast, cut: float) -> str:
    fitting = run.fitting(cut)
    which = "the first in running order"
    if fitting != list(range(1, len(fitting) + 1)):
        which = f"numbers {join_places(fitting)} in running order"
    some = f", {which}" if fitting and plan.search is None else ""
    return (
        f"{len(fitting)} of {plural(len(run.ends), 'missing trial')} fit in the limit of {limit_words(plan)}{some}; "
        "the same command then continues with the rest"
    )


def join_places(places: Sequence[int]) -> str:
    """Return numbers in rising order with ranges in short: "1 to 6, 8"."""
    ranges: list[list[int]] = []
    for place in places:
        if ranges and ranges[-1][1] == place - 1:
            ranges[-1][1] = place
        else:
            ranges.append([place, place])
    return ", ".join(f"{first}" if first == last else f"{first} to {last}" for first, last in ranges)


def _one(price: Price) -> str:
    return "on one GPU" if price.device.gpu else "one after another"


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
