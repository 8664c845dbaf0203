"""Limits of devices and the least times of work, in closed form."""

import pytest

from famba_core.cost.data_sheets import (
    cpu_limits,
    is_of_type,
    known_limits,
    known_memory_gib,
    similar_type,
    spell_type,
)  # fmt: skip
from famba_core.cost.roofline import Limits, Work, least_times

WORK = Work(matmul_flops=8e12, vector_ops=3e12, exps=1e12, bytes=6e12)
LIMITS = Limits(
    matmul_flops_per_s=4e12, vector_ops_per_s=1e12, exps_per_s=1e12, bytes_per_s=2e12, start_s=9, source="x"
)


def test_each_resource_has_its_own_time():
    times = least_times(WORK, LIMITS)
    assert (times.matmul, times.vector, times.memory) == (2.0, 4.0, 3.0)  # exponentials take slots of instructions
    assert (times.overlapped, times.serial) == (4.0, 9.0)


def test_slow_exponentials_limit_the_vector_time():
    slow = Limits(matmul_flops_per_s=1, vector_ops_per_s=1e12, exps_per_s=1e11, bytes_per_s=1, start_s=9, source="x")
    assert least_times(WORK, slow).vector == 10.0


def test_work_is_additive():
    assert WORK + WORK == WORK * 2
    assert least_times(WORK * 5, LIMITS).serial == 5 * least_times(WORK, LIMITS).serial


@pytest.mark.parametrize(
    ("name", "precision", "matmul", "memory"),
    [
        ("NVIDIA H200", "bf16", 989e12, 4.8e12),
        ("NVIDIA H100 80GB HBM3", "tf32", 494e12, 3.35e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12, 2.0e12),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5e12, 2.039e12),
        ("NVIDIA A100-SXM4-40GB", "bf16", 312e12, 1.555e12),
    ],
)
def test_limits_equal_the_data_sheets(name, precision, matmul, memory):
    limits = known_limits(name, precision)
    assert (limits.matmul_flops_per_s, limits.bytes_per_s) == (pytest.approx(matmul), pytest.approx(memory))
    assert limits.vector_ops_per_s == pytest.approx(known_limits(name, "float32").matmul_flops_per_s / 2)


def test_rate_of_exponentials_follows_from_processors_and_clock():
    assert known_limits("NVIDIA A100-SXM4-80GB", "bf16").exps_per_s == pytest.approx(16 * 108 * 1.41e9)


def test_unknown_device_has_no_limits():
    assert known_limits("AMD EPYC (2 threads)", "bf16") is None


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("NVIDIA A100-SXM4-80GB", 80), ("NVIDIA A100-SXM4-40GB", 40), ("A100-40G", 40), ("A100-80G", 80), ("A100", 40),
        ("NVIDIA H200", 141), ("NVIDIA H100 80GB HBM3", 80), ("Tesla V100-SXM2-32GB", 16), ("NVIDIA L40S", 48),
        ("NVIDIA L4", 24), ("NVIDIA GH200 480GB", 96), ("NVIDIA H20", 96), ("Radeon", None),
    ],
)  # fmt: skip
def test_memory_is_the_smallest_size_that_fits_the_name(name, gib):
    assert known_memory_gib(name) == gib


@pytest.mark.parametrize(
    ("device", "kind", "is_it"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100", True), ("NVIDIA A100-SXM4-80GB", "A100-80G", True),
        ("NVIDIA A100-SXM4-80GB", "A100-40G", False), ("NVIDIA A100-SXM4-80GB", "A10", False), ("H200", "H20", False),
        ("NVIDIA GH200 480GB", "H200", False), ("NVIDIA L40S", "L4", False), ("NVIDIA L40S", "L40", False),
        ("NVIDIA B200", "B200", True), ("GB200", "B200", False), ("Tesla P40", "P4", False),
        ("NVIDIA H200", "H200", True), ("NVIDIA RTX PRO 6000 Blackwell", "RTX-PRO-6000", True),
        ("A100-80G", "A100", True),
        ("A100", "A100-80G", False),
    ],
)  # fmt: skip
def test_gpu_types_are_compared_by_whole_words(device, kind, is_it):
    assert is_of_type(device, kind) is is_it


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("name", ["B200", "GH200", "H20", "L40S", "L4", "A10G", "A10", "A6000", "V100", "P100", "T4"])
def test_every_type_of_known_memory_has_limits(name, precision):
    assert known_memory_gib(name) is not None
    assert known_limits(name, precision).matmul_flops_per_s > 0


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ("a100", "A100"), ("a100_80gb", "A100-80G"), ("A100-80GB", "A100-80G"), ("a100-40g", "A100-40G"),
        ("nvidia-h200", "H200"), ("Tesla-T4", "T4"), ("l40s", "L40S"), ("rtx4090", "RTX-4090"), ("TPU-V4", "TPU-V4"),
    ],
)  # fmt: skip
def test_types_are_known_in_any_spelling(given, known):
    assert spell_type(given) == known


@pytest.mark.parametrize(("given", "close"), [("RTX4080", "RTX-4090"), ("H10", "H100"), ("TPU-V4", None)])
def test_a_similar_type_is_found(given, close):
    assert similar_type(given) == close


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_cpu_limits_are_proportional_to_threads(precision):
    one, four = cpu_limits(1, precision), cpu_limits(4, precision)
    for rate in ("matmul_flops_per_s", "vector_ops_per_s", "exps_per_s", "bytes_per_s"):
        assert getattr(four, rate) == pytest.approx(4 * getattr(one, rate))
    assert four.start_s == one.start_s  # one after the other, however many there are
