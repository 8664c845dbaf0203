"""The cost model: FLOPs, bytes and memory against what torch counts, and closed forms."""

from dataclasses import replace

import pytest
import torch
from backends import FAST, needs_kernels
from torch.utils.flop_counter import FlopCounterMode

from famba_core import FusionConfig, ModelConfig, build_model, token_schedule
from famba_core.bench.settings import NUM_CLASSES
from famba_core.bench.workloads import Workload, saved_bytes, step_with_peak
from famba_core.config import Precision
from famba_core.cost.measure import mib
from famba_core.cost.roofline import Limits
from famba_core.cost.work import SCAN_FLOPS_PER_STATE, StepSettings, cost, image_work, predicted_ratios, step_cost
from famba_core.models.vim.constants import CONV_WIDTH

SCHEDULES = {
    "none": FusionConfig(),
    "upper": FusionConfig(strategy="upper", start_layer=6, r=2),
    "lower": FusionConfig(strategy="lower", stop_layer=19, r=2),
}


@pytest.mark.parametrize("config", [
    ModelConfig(num_classes=1000),
    ModelConfig(backbone="vim_small", image_size=96, patch_size=8),
    ModelConfig(backbone="vim_nano", image_size=8, patch_size=1, num_classes=10),
    ModelConfig(backbone="vim_nano_small", image_size=32, cls_position="middle"),
])  # fmt: skip
def test_parameters_equal_those_of_the_model(config):
    with torch.device("meta"):
        model = build_model(config)
    assert cost(config, model.fusion.schedule).parameters == sum(p.numel() for p in model.parameters())


@needs_kernels
@pytest.mark.parametrize("fusion", SCHEDULES)
def test_flops_equal_those_of_torch_plus_the_kernels(fusion):
    config = ModelConfig(backbone="vim_nano_small", image_size=32)
    model = build_model(config, SCHEDULES[fusion])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    sizes = config.sizes
    tokens, similarities, length = 0, 0, config.num_tokens
    for r in model.fusion.schedule:
        similarities += (length + 1) // 2 * (length // 2) if r else 0
        length -= r
        tokens += length
    # the kernels are unknown to torch's counter: they compare even tokens with odd ones, and per token and direction
    # they convolve and scan 2 D channels
    kernels = 2 * sizes.width * similarities
    kernels += tokens * 2 * (2 * sizes.width) * (2 * CONV_WIDTH + SCAN_FLOPS_PER_STATE * sizes.state_size)
    assert cost(config, model.fusion.schedule).flops_per_image == counter.get_total_flops() + kernels


def workload(backbone: str, precision: Precision = "float32", batch: int = 2) -> Workload:
    model = ModelConfig(backbone=backbone, image_size=32, num_classes=NUM_CLASSES)
    return Workload(model=model, batch=batch, precision=precision, device=torch.device("cpu"))


@needs_kernels
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("fusion", SCHEDULES)
def test_activation_bytes_equal_those_that_autograd_keeps(fusion, precision, recompute):
    load = workload("vim_nano_small", precision)
    schedule = token_schedule(SCHEDULES[fusion], 24, load.model.num_tokens)
    predicted = cost(
        load.model, schedule, StepSettings(precision=precision, recompute=recompute)
    ).activation_bytes_per_image
    measured = saved_bytes(load, SCHEDULES[fusion], recompute=recompute)
    assert predicted == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("fusion", ["upper", "lower"])
@pytest.mark.parametrize("backend", FAST)
def test_saving_by_fusion_is_predicted_on_every_backend(backend, fusion):
    load = replace(workload("vim_nano_small"), backend=backend)
    predicted, measured = [], []
    for name in (fusion, "none"):
        schedule = token_schedule(SCHEDULES[name], 24, load.model.num_tokens)
        predicted.append(cost(load.model, schedule).activation_bytes_per_image)
        measured.append(saved_bytes(load, SCHEDULES[name]))
    assert predicted[0] / predicted[1] == pytest.approx(measured[0] / measured[1], rel=0.05)


@needs_kernels
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("fusion", ["none", "upper"])
def test_peak_of_a_step_is_near_the_measured_one(fusion, precision, recompute):
    load = workload("vim_nano_small", precision, batch=16)
    schedule = token_schedule(SCHEDULES[fusion], 24, load.model.num_tokens)
    predicted = step_cost(
        load.model, schedule, StepSettings(batch=16, precision=precision, recompute=recompute)
    ).peak_bytes
    _, measured = step_with_peak(load, SCHEDULES[fusion], recompute=recompute)
    assert mib(predicted) == pytest.approx(measured, rel=0.12)


def limits(**rates: float) -> Limits:
    """Return limits of a device on which everything but the given rates takes no time."""
    names = ("matmul_flops_per_s", "vector_ops_per_s", "exps_per_s", "bytes_per_s")
    return Limits(**{name: rates.get(name, 1e30) for name in names}, start_s=0.0, source="made")


TINY = ModelConfig()
UPPER = token_schedule(FusionConfig(strategy="upper", start_layer=6, r=9), 24, 197)
TOKEN_RATIO = (24 * 197 - 9 * 19 * 20 / 2) / (24 * 197)


def test_step_has_three_times_the_products_of_forward_plus_the_recomputed_projection():
    image = image_work(TINY, [0] * 24)
    scan = 24 * 197 * 2 * 384 * (2 * CONV_WIDTH + SCAN_FLOPS_PER_STATE * 16)
    steps = 24 * 197 * 2 * 2 * 384 * 12
    assert image.matmul_flops == 3 * (cost(TINY, [0] * 24).flops_per_image - scan) + steps
    assert image.exps == 2 * 24 * 197 * 2 * 384 * 16
    again = 24 * 197 * 2 * (2 * 192 * 384 + 2 * 384 * (12 + 32))
    assert image_work(TINY, [0] * 24, StepSettings(recompute=True)).matmul_flops == image.matmul_flops + again
    assert step_cost(TINY, UPPER, StepSettings(batch=6)).work.exps == 6 * image_work(TINY, UPPER).exps


def test_scan_time_is_proportional_to_the_tokens():
    ratio, _ = predicted_ratios(TINY, UPPER, limits(exps_per_s=1.0), StepSettings(batch=8))
    assert ratio == pytest.approx(TOKEN_RATIO)


def test_fixed_costs_of_a_step_bring_the_ratio_closer_to_one():
    moved = limits(bytes_per_s=1.0)
    ratios = [predicted_ratios(TINY, UPPER, moved, StepSettings(batch=batch))[0] for batch in (1, 8, 1024)]
    assert 1 > ratios[0] > ratios[1] > ratios[2] > TOKEN_RATIO
    once = (
        2 * step_cost(TINY, UPPER, StepSettings(batch=1)).work.bytes
        - step_cost(TINY, UPPER, StepSettings(batch=2)).work.bytes
    )
    assert once == 11 * 4 * cost(TINY, UPPER).parameters  # AdamW and the average
    assert (
        step_cost(TINY, UPPER, StepSettings(batch=1, ema=False)).work.bytes
        < step_cost(TINY, UPPER, StepSettings(batch=1)).work.bytes
    )


def test_step_that_only_starts_kernels_costs_more_with_fusion():
    slow = replace(limits(), start_s=1.0)
    assert step_cost(TINY, UPPER, StepSettings(batch=8)).time_s(slow) == pytest.approx(24 * 60 + 19 * 25)
    assert predicted_ratios(TINY, UPPER, slow, StepSettings(batch=8))[0] > 1


def test_bfloat16_halves_activations_between_products_but_not_the_residual():
    D, E, low = 192, 384, 2 * (12 + 32)
    kept = {p: cost(TINY, [0] * 24, StepSettings(precision=p)).activation_bytes_per_image for p in ("float32", "bf16")}
    images = 3 * 224 * 224
    assert kept["float32"] == 4 * images + 24 * 197 * 4 * (D + 2 * E + low)
    assert kept["bf16"] == 2 * images + 24 * 197 * (4 * D + 2 * (2 * E + low))
    assert (
        cost(TINY, [0] * 24, StepSettings(recompute=True)).activation_bytes_per_image == 4 * images + 24 * 197 * 4 * D
    )


def test_recompute_predicts_less_memory_and_more_time():
    even = limits(matmul_flops_per_s=1e12, vector_ops_per_s=1e12, exps_per_s=1e12, bytes_per_s=1e11)
    time, memory = predicted_ratios(TINY, [0] * 24, even, StepSettings(batch=64, recompute=True))
    assert 1 < time < 1.2
    assert memory < 0.5


def test_fullest_layer_is_where_backward_needs_the_most_memory():
    """Without fusion it is the last layer, where backward begins with all activations; fusion there lowers it."""
    none = step_cost(TINY, (0,) * 24, StepSettings(batch=128))
    assert none.fullest_layer == 24
    late = step_cost(TINY, (0,) * 23 + (98,), StepSettings(batch=128))
    assert late.fullest_layer == 23
    assert late.peak_bytes < none.peak_bytes
    # of one image little is kept, and towards the first layer the gradients of all later ones have gathered
    assert step_cost(TINY, (0,) * 24, StepSettings(batch=1, recompute=True)).fullest_layer == 1
    # one small image: the optimizer's gradients of all layers outweigh a layer's backward
    small = ModelConfig(image_size=16)
    assert step_cost(small, (0,) * 24, StepSettings(batch=1)).fullest_layer is None
