"""The roofline model: a device's peak rates, and a lower bound on the time that some work takes there."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Work:
    """Amount of computation and data movement, independent of the device."""

    matmul_flops: float  # 2 per multiply-add
    vector_ops: float  # instructions per value outside matrix products; a multiply-add is one
    exps: float  # exponentials, not counted in vector_ops
    bytes: float  # moved between memory and chip

    def __add__(self, other: Work) -> Work:
        return Work(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(Work)})

    def __mul__(self, times: float) -> Work:
        return Work(**{field.name: getattr(self, field.name) * times for field in fields(Work)})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Peak rates of a device in one precision."""

    matmul_flops_per_s: float
    vector_ops_per_s: float
    exps_per_s: float
    bytes_per_s: float
    start_s: float  # to start one kernel or operator; used in predicted times only, not in the limits
    source: str  # "data sheet" or "measured"


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds that each resource needs for some work at its peak rate."""

    matmul: float
    vector: float
    memory: float

    @property
    def overlapped(self) -> float:
        """Return the time if all resources work concurrently: the lower bound."""
        return max(self.matmul, self.vector, self.memory)

    @property
    def serial(self) -> float:
        """Return the time if the resources work one after the other, as for kernels that each saturate one of them."""
        return self.matmul + self.vector + self.memory


def least_times(work: Work, limits: Limits) -> Times:
    """Return the times at the limits. Exponentials run in units of their own, but are also issued as instructions."""
    issued = (work.vector_ops + work.exps) / limits.vector_ops_per_s
    return Times(
        matmul=work.matmul_flops / limits.matmul_flops_per_s,
        vector=max(issued, work.exps / limits.exps_per_s),
        memory=work.bytes / limits.bytes_per_s,
    )
