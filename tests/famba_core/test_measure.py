"""The peak of tensor bytes, on steps whose peak is known."""

import gc

import torch

from famba_core.measure import mib, peak_tensor_bytes, tensors_of

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


def test_the_peak_is_of_what_lives_at_one_moment():
    assert peak_tensor_bytes(two_at_once, []) == 800 * KIB


def test_what_is_there_before_counts_once_for_each_storage():
    weights, other = tensor(100), tensor(10)
    assert peak_tensor_bytes(two_at_once, [weights, weights[5:], weights.view(2, -1), other]) == 910 * KIB
    assert peak_tensor_bytes(lambda: None, [weights]) == 100 * KIB


def test_temporaries_inside_operators_count():
    x = torch.rand(64 * KIB)
    # sorting makes values, indices of 8 bytes, and room to work in
    assert peak_tensor_bytes(lambda: x.sort(), []) >= 64 * KIB * (4 + 8)


def test_it_is_the_same_number_whatever_ran_before():
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
