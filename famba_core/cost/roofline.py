"""What a device can do at most, and the least time that some work takes there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done, whichever device does it."""

    matmul_flops: float  # 2 per multiply-add
    vector_ops: float  # instructions on single values outside of matrix products; a multiply-add is one
    exps: float  # exponentials, beside the vector_ops
    bytes: float  # moved between memory and chip

    def __add__(self, other: Work) -> Work:
        return Work(
            matmul_flops=self.matmul_flops + other.matmul_flops,
            vector_ops=self.vector_ops + other.vector_ops,
            exps=self.exps + other.exps,
            bytes=self.bytes + other.bytes,
        )

    def __mul__(self, times: float) -> Work:
        return Work(
            matmul_flops=self.matmul_flops * times,
            vector_ops=self.vector_ops * times,
            exps=self.exps * times,
            bytes=self.bytes * times,
        )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Peak rates of a device in one precision."""

    matmul_flops_per_s: float
    vector_ops_per_s: float
    exps_per_s: float
    bytes_per_s: float
    start_s: float  # to start one kernel or operator; part of no limit, and of predicted times
    source: str  # "data sheet" or "measured"


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds that work takes at the limits, resource by resource."""

    matmul: float
    vector: float
    memory: float

    @property
    def overlapped(self) -> float:
        """Everything at once: nothing can be faster."""
        return max(self.matmul, self.vector, self.memory)

    @property
    def serial(self) -> float:
        """One resource after the other: what kernels reach that each saturate one of them."""
        return self.matmul + self.vector + self.memory


def least_times(work: Work, limits: Limits) -> Times:
    """Exponentials have units of their own, and take a slot for an instruction too."""
    issued = (work.vector_ops + work.exps) / limits.vector_ops_per_s
    return Times(
        matmul=work.matmul_flops / limits.matmul_flops_per_s,
        vector=max(issued, work.exps / limits.exps_per_s),
        memory=work.bytes / limits.bytes_per_s,
    )
