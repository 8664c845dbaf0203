"""measure_step on a clock that the step itself advances, and peak_tensor_bytes on steps with a known peak."""

import gc
import time

import pytest
import torch

from famba_core.cost.measure import measure_step, mib, peak_tensor_bytes, tensors_of
from famba_core.errors import ConfigError

KIB = 1024


def tensor(kib: int) -> torch.Tensor:
    return torch.zeros(kib * KIB, dtype=torch.uint8)


def two_at_once() -> None:
    first = tensor(300)
    second = tensor(500)
    del first
    tensor(250)
    del second
    tensor(700)


def test_peak_counts_tensors_that_live_at_the_same_time():
    assert peak_tensor_bytes(two_at_once, []) == 800 * KIB


def test_resident_tensors_count_once_per_storage():
    weights, other = tensor(100), tensor(10)
    assert peak_tensor_bytes(two_at_once, [weights, weights[5:], weights.view(2, -1), other]) == 910 * KIB
    assert peak_tensor_bytes(lambda: None, [weights]) == 100 * KIB


def test_peak_includes_temporaries_inside_operators():
    x = torch.rand(64 * KIB)
    # sorting makes values, indices of 8 bytes, and working memory
    assert peak_tensor_bytes(lambda: x.sort(), []) >= 64 * KIB * (4 + 8)


def test_peak_does_not_depend_on_what_ran_before():
    def step() -> None:
        keeper: list[object] = [tensor(400)]
        keeper.append(keeper)  # a cycle: only the garbage collector frees it
        two_at_once()

    gc.disable()
    try:
        first = peak_tensor_bytes(step, [])
        noise = [tensor(5000) for _ in range(3)]
        del noise
    finally:
        gc.enable()
    assert first == 1200 * KIB

    def step_with_collection() -> None:
        gc.collect()
        two_at_once()

    assert peak_tensor_bytes(step_with_collection, []) == 800 * KIB


def test_tensors_of_a_nested_state():
    a, b, c = (torch.full((1,), float(i)) for i in range(3))
    assert list(tensors_of({"x": a, "y": [b, (c, 3)], "z": None})) == [a, b, c]


def test_mib():
    assert mib(3 * 2**20) == 3.0


CPU = torch.device("cpu")


class Step:
    """Step whose calls take the given milliseconds; later calls take the last of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *durations_ms: float):
        self.durations_ms = durations_ms
        self.calls = 0
        self.now_s = 1000.0
        monkeypatch.setattr("famba_core.cost.measure.time.perf_counter", lambda: self.now_s)

    def __call__(self) -> None:
        self.now_s += self.durations_ms[min(self.calls, len(self.durations_ms) - 1)] / 1e3
        self.calls += 1


def test_median_and_quartiles_exclude_the_warm_up(monkeypatch):
    step = Step(monkeypatch, 900.0, 800.0, 10.0, 50.0, 20.0, 40.0, 30.0)
    time = measure_step(step, device=CPU, warmup=2, budget_s=0)
    assert (time.median_ms, time.q25_ms, time.q75_ms) == pytest.approx((30.0, 20.0, 40.0))
    assert (time.n, step.calls) == (5, 2 + 5)


@pytest.mark.parametrize(("step_ms", "n"), [(10.0, 100), (199.0, 5), (300.0, 5), (1000.0, 5), (0.5, 400)])
def test_number_of_timed_steps_fits_the_budget_but_is_at_least_the_minimum(step_ms, n, monkeypatch):
    step = Step(monkeypatch, step_ms)
    time = measure_step(step, device=CPU, warmup=3, min_steps=5, max_steps=400, budget_s=1.0001)
    assert (time.n, step.calls) == (n, 3 + n)
    assert time.median_ms == pytest.approx(step_ms)


def test_short_disturbance_does_not_decide_the_median(monkeypatch):
    # in the first lot most steps are slow ones
    step = Step(monkeypatch, 100.0, 100.0, 200.0, 100.0, 190.0, 200.0, 180.0, 100.0)
    time = measure_step(step, device=CPU, warmup=2, min_steps=5, budget_s=0.9)
    assert time.median_ms == pytest.approx(100.0)
    assert time.n > 5


def test_timing_ends_even_if_times_always_scatter(monkeypatch):
    step = Step(monkeypatch, *[100.0, 150.0] * 500)
    time = measure_step(step, device=CPU, warmup=0, min_steps=8, budget_s=1.0001)
    assert 4000 <= time.n * 125 <= 4000 + 8 * 125, "four times the budget, to a lot's length"
    scattered = Step(monkeypatch, *[100.0, 150.0] * 500)
    assert measure_step(scattered, device=CPU, warmup=0, max_steps=11, budget_s=1.0).n == 11


def test_timing_ends_for_steps_that_take_no_time(monkeypatch):
    assert measure_step(Step(monkeypatch, 0.0), device=CPU, max_steps=50).n == 50


def test_all_wrong_arguments_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        measure_step(lambda: None, device=CPU, warmup=-1, min_steps=0, max_steps=-3)
    assert [problem.key for problem in caught.value.problems] == ["warmup", "min_steps", "max_steps"]


def test_errors_of_the_step_are_raised():
    with pytest.raises(ZeroDivisionError):
        measure_step(lambda: 1 / 0, device=CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_times_are_those_of_the_work_not_of_its_launch():
    device = torch.device("cuda")
    x = torch.randn(8192, 8192, device=device)
    timed = measure_step(lambda: x @ x, device=device, min_steps=10, max_steps=10)
    start = time.perf_counter()
    for _ in range(10):
        x @ x
    launched_ms = 1e3 * (time.perf_counter() - start) / 10
    torch.cuda.synchronize()
    whole_ms = 1e3 * (time.perf_counter() - start) / 10
    assert timed.n == 10
    assert timed.median_ms > 3 * launched_ms
    assert timed.median_ms == pytest.approx(whole_ms, rel=0.2)
