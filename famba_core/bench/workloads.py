"""What is timed: the scan, one layer, the model, and the training step, each as a function without arguments."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from famba_core.bench.cases import NUM_CLASSES, backbone_of_depth
from famba_core.bench.memory import peak_mib, saved_bytes_per_image
from famba_core.bench.timing import Call
from famba_core.config import AugmentConfig, FusionConfig, ModelConfig, Precision, TrainConfig
from famba_core.cost.measure import mib, tensors_of
from famba_core.data.image_dataset import IMAGENET_MEAN, IMAGENET_STD, ImageDataset, Split
from famba_core.device import autocast
from famba_core.models.classifier import Classifier
from famba_core.models.registry import build_model
from famba_core.models.vim.constants import REVERSE
from famba_core.models.vim.model import Vim
from famba_core.ops.interface import selective_scan
from famba_core.training.cuda_graph import WARMUP_CALLS
from famba_core.training.step import TrainStep

CIFAR_SIDE = 32  # pixels; the step's augmentation makes the model's image size of them


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The sizes of a call, wherever it runs."""

    model: ModelConfig
    batch: int
    precision: Precision
    device: torch.device
    backend: str = "auto"


def scan_call(load: Workload) -> Call:
    """Forward and backward of the scan alone, both directions."""
    sizes, device = load.model.sizes, load.device
    batch, tokens, E, N = load.batch, load.model.num_tokens, 2 * sizes.width, sizes.state_size
    directions = len(REVERSE)
    dtype = torch.bfloat16 if load.precision == "bf16" else torch.float32
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    inner = [normal(batch, tokens, directions, width, dtype=dtype) for width in (E, E, N, N)]
    u, delta, B, C = (x.requires_grad_() for x in inner)
    A = -torch.arange(1.0, N + 1, device=device).expand(directions, E, N).clone()
    parameters = [
        A,
        normal(directions, E),
        normal(directions, E) - 4,
    ]  # A, D, and the bias of Mamba's first steps
    A, D, bias = (x.requires_grad_() for x in parameters)
    pull = normal(batch, tokens, directions, E, dtype=dtype)

    def call() -> None:
        y = selective_scan(u, delta, A, B, C, D, bias, reverse=REVERSE, backend=load.backend)
        torch.autograd.grad(y, (u, delta, A, B, C, D, bias), pull)

    return call


def layer_call(load: Workload) -> Call:
    """Forward and backward of one layer without fusion: norm, mixer, residual."""
    with backbone_of_depth(load.model.backbone, 1) as backbone:
        model = new_model(load, backbone=backbone)
    assert isinstance(model, Vim)
    block = model.blocks[0]
    shape = (load.batch, load.model.num_tokens, load.model.sizes.width)
    residual = torch.randn(shape, device=load.device, requires_grad=True)
    pull = torch.randn(shape, device=load.device)
    inputs = [residual, *block.parameters()]

    def call() -> None:
        with autocast(load.device, load.precision):
            out = block(residual, None, False)
        torch.autograd.grad(out, inputs, pull)

    return call


def model_call(load: Workload, fusion: FusionConfig | None = None) -> Call:
    """Forward and backward of the whole model with its loss, gradients of all parameters."""
    model = new_model(load, fusion)
    size = load.model.image_size
    images = torch.randn(load.batch, 3, size, size, device=load.device)
    labels = torch.randint(load.model.num_classes, (load.batch,), device=load.device)
    parameters = list(model.parameters())

    def call() -> None:
        with autocast(load.device, load.precision):
            logits = model(images)
        torch.autograd.grad(F.cross_entropy(logits.float(), labels), parameters)

    return call


def new_model(load: Workload, fusion: FusionConfig | None = None, *, backbone: str | None = None) -> Classifier:
    """A model on the device, from one seed, which leaves torch's global generator as it was."""
    config = load.model
    if backbone is not None:
        config = ModelConfig(
            backbone=backbone, image_size=config.image_size, patch_size=config.patch, num_classes=config.num_classes
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(config, fusion or FusionConfig(), backend=load.backend).to(load.device)


class StepWorkload:
    """The training step at the paper's recipe, on images of random pixels: time does not depend on what they show."""

    def __init__(self, load: Workload, fusion: FusionConfig, *, recompute: bool = False):
        config = TrainConfig(batch_size=load.batch, precision=load.precision, recompute=recompute)
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (load.batch, 3, CIFAR_SIDE, CIFAR_SIDE), generator=generator, dtype=torch.uint8)
        labels = torch.randint(NUM_CLASSES, (load.batch,), generator=generator)
        split = Split(images=pixels, labels=labels).to(load.device)
        dataset = ImageDataset(
            name="random", train=split, test=split, num_classes=NUM_CLASSES, mean=IMAGENET_MEAN, std=IMAGENET_STD
        )
        self.split = split
        self.model = new_model(load, fusion)
        self.model.recompute = recompute
        self.generator = torch.Generator(load.device).manual_seed(0)
        self.step = TrainStep(self.model, dataset, AugmentConfig(), config, steps=config.epochs * 390)

    def __call__(self) -> None:
        self.step(self.split.images, self.split.labels, 1e-4, self.generator)

    def resident(self) -> list[Tensor]:
        """What lives between two steps, gradients left out."""
        self.step.optimizer.zero_grad(set_to_none=True)
        return [*tensors_of(self.step.state_dict()), self.split.images, self.split.labels]


def step_with_peak(load: Workload, fusion: FusionConfig, *, recompute: bool = False) -> tuple[StepWorkload, float]:
    """A training step that has run, and the most MiB that it holds with all that belongs to it."""
    if load.device.type == "cpu":
        step = StepWorkload(load, fusion, recompute=recompute)
        step()  # makes the optimizer's state
        return step, peak_mib(step, load.device, step.resident())
    torch.cuda.synchronize(load.device)
    before = torch.cuda.memory_allocated(load.device)
    torch.cuda.reset_peak_memory_stats(load.device)
    step = StepWorkload(load, fusion, recompute=recompute)
    for _ in range(WARMUP_CALLS + 1):  # the allocator does not see what a replayed graph uses
        step()
    torch.cuda.synchronize(load.device)
    return step, mib(torch.cuda.max_memory_allocated(load.device) - before)


def saved_bytes(load: Workload, fusion: FusionConfig, *, recompute: bool = False) -> float:
    """Bytes per image that the model's forward pass keeps for backward, see `memory.saved_bytes_per_image`."""
    model = new_model(load, fusion)
    model.recompute = recompute
    size = load.model.image_size

    def forward(batch: int) -> Tensor:
        with autocast(load.device, load.precision):
            out: Tensor = model(torch.randn(batch, 3, size, size, device=load.device))
        return out

    return saved_bytes_per_image(forward, model.parameters())
