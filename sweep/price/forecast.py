"""Forecasts a run: when each missing trial ends, and which of them end before a limit of the pool."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sweep.plan.identity import measure_id
from sweep.plan.model import Plan, Trial
from sweep.price.estimate import Price

HALVINGS = 50  # of the time at which a budget is spent


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The missing trials in running order, each started when a slot is free. Trials that a search chooses come last."""

    trials: tuple[Trial, ...]
    starts: tuple[float, ...]  # hours from the start of the run
    ends: tuple[float, ...]
    occupied: tuple[float, ...]  # GPUs, or CPU threads, that each trial keeps from others
    concurrent: int  # slots
    measuring: float  # hours before the first trial starts
    measuring_gpus: int  # that measuring keeps from others

    @property
    def wall_hours(self) -> float:
        """Return the hours until the last trial has ended."""
        return max(self.ends, default=0.0)

    def spent(self, hours: float) -> float:
        """Return the GPU-hours, or CPU thread-hours, that are spent so many hours after the start."""
        return self.measuring_gpus * min(hours, self.measuring) + sum(
            occupied * max(0.0, min(end, hours) - start)
            for start, end, occupied in zip(self.starts, self.ends, self.occupied, strict=True)
        )

    def cut(self, *, time_limit_h: float | None, gpu_hours: float | None) -> float | None:
        """Return the hours after which a limit ends the run; None if all trials end before."""
        ends = self.wall_hours
        if gpu_hours is not None and gpu_hours < self.spent(ends):
            low, high = 0.0, ends
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                low, high = (middle, high) if self.spent(middle) < gpu_hours else (low, middle)
            ends = high
        if time_limit_h is not None:
            ends = min(ends, time_limit_h)
        return ends if ends < self.wall_hours else None

    def fitting(self, cut: float) -> list[int]:
        """Return the places, from 1, of the trials that have ended after so many hours."""
        return [place for place, end in enumerate(self.ends, start=1) if end <= cut * (1 + 1e-9)]


def forecast(plan: Plan, price: Price, missing: Sequence[Trial]) -> Forecast:
    """Forecast a run of the missing trials. A trial that a search chooses takes as long as the candidates' mean."""
    candidates = {trial.trial_id for trial in plan.candidates}
    mean = fmean([trial.hours for trial in price.of(plan.candidates)] or [0.0])
    hours = [mean if t.trial_id in candidates else price.trials[t.trial_id].hours for t in missing]
    concurrent = slots(plan, price)
    measured = {measure_id(trial): price.trials[trial.trial_id].measuring_hours for trial in missing}
    measuring = sum(measured.values())
    free = [measuring] * concurrent
    starts = []
    for duration in hours:
        starts.append(free[0])
        heapq.heapreplace(free, free[0] + duration)
    return Forecast(
        trials=tuple(missing),
        starts=tuple(starts),
        ends=tuple(start + duration for start, duration in zip(starts, hours, strict=True)),
        occupied=tuple(priced.occupied for priced in price.of(missing)),
        concurrent=concurrent,
        measuring=measuring,
        measuring_gpus=int(price.device.gpu),
    )


def slots(plan: Plan, price: Price) -> int:
    """Return how many trials run concurrently.

    Where the number of GPUs is not known, these are max_concurrent, or those that share one GPU.
    """
    most, device = plan.pool.max_concurrent, price.device
    sharing = min(priced.sharing for priced in price.trials.values())
    found = (device.count or 0) * sharing
    return min(found or most or sharing, most or found or sharing)
