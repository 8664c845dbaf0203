"""The calls that are measured: the scan, one layer, the model, the training step; and the memory that they need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from famba_core.bench.machine import AUTO, PEERS
from famba_core.bench.settings import NUM_CLASSES
from famba_core.bench.timing import Call
from famba_core.config import AugmentConfig, FusionConfig, ModelConfig, Precision, TrainConfig
from famba_core.cost.measure import mib, peak_tensor_bytes
from famba_core.data.image_dataset import IMAGENET_MEAN, IMAGENET_STD, ImageDataset, Split
from famba_core.device import autocast
from famba_core.models.classifier import Classifier
from famba_core.models.registry import build_model
from famba_core.models.vim.constants import REVERSE
from famba_core.models.vim.model import Block
from famba_core.ops.interface import selective_scan
from famba_core.training.cuda_graph import WARMUP_CALLS
from famba_core.training.step import TrainStep

CIFAR_SIDE = 32  # pixels; the augmentation of the step resizes them to the model's image size


@dataclass(frozen=True)
class Workload:
    """The sizes of a call, and the backend that computes it."""

    model: ModelConfig
    batch: int  # images
    precision: Precision
    device: torch.device
    backend: str = AUTO

    @property
    def is_peer(self) -> bool:
        """True for a backend of another project."""
        return self.backend in PEERS

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the activations."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


def scan_call(load: Workload) -> Call:
    """Return forward and backward of the scan alone, both directions."""
    sizes, device = load.model.sizes, load.device
    batch, tokens, E, N, G = load.batch, load.model.num_tokens, 2 * sizes.width, sizes.state_size, len(REVERSE)
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    u, delta, B, C = (normal(batch, tokens, G, width, dtype=load.dtype) for width in (E, E, N, N))
    A = -torch.arange(1.0, N + 1, device=device).expand(G, E, N).clone()
    D, bias = normal(G, E), normal(G, E) - 4  # the bias of Mamba's initial step sizes
    inputs = [x.requires_grad_() for x in (u, delta, A, B, C, D, bias)]
    grad = normal(batch, tokens, G, E, dtype=load.dtype)

    def call() -> None:
        y = selective_scan(*inputs, reverse=REVERSE, backend=load.backend)
        torch.autograd.grad(y, inputs, grad)

    return call


def layer_call(load: Workload) -> Call:
    """Return forward and backward of one layer without fusion: norm, mixer, residual."""
    sizes = load.model.sizes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = Block(sizes.width, sizes.state_size, num_layers=1, backend=load.backend).to(load.device)
    shape = (load.batch, load.model.num_tokens, sizes.width)
    residual = torch.randn(shape, device=load.device, requires_grad=True)
    grad = torch.randn(shape, device=load.device)
    inputs = [residual, *block.parameters()]

    def call() -> None:
        with autocast(load.device, load.precision):
            out = block(residual, None, False)
        torch.autograd.grad(out, inputs, grad)

    return call


def model_call(load: Workload) -> Call:
    """Return forward and backward of the whole model without fusion, with its loss and all gradients."""
    model = _new_model(load, FusionConfig())
    size = load.model.image_size
    images = torch.randn(load.batch, 3, size, size, device=load.device)
    labels = torch.randint(load.model.num_classes, (load.batch,), device=load.device)
    parameters = list(model.parameters())

    def call() -> None:
        with autocast(load.device, load.precision):
            logits = model(images)
        torch.autograd.grad(F.cross_entropy(logits.float(), labels), parameters)

    return call


def _new_model(load: Workload, fusion: FusionConfig, *, recompute: bool = False) -> Classifier:
    """Build a model on the device, from one seed; torch's global generator stays unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(load.model, fusion, backend=load.backend).to(load.device)
    model.recompute = recompute
    return model


class StepWorkload:
    """The training step of the paper's recipe, on random pixels: its time does not depend on their values."""

    def __init__(self, load: Workload, fusion: FusionConfig, *, recompute: bool):
        config = TrainConfig(batch_size=load.batch, precision=load.precision, recompute=recompute)
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (load.batch, 3, CIFAR_SIDE, CIFAR_SIDE), generator=generator, dtype=torch.uint8)
        labels = torch.randint(NUM_CLASSES, (load.batch,), generator=generator)
        self.split = Split(images=pixels, labels=labels).to(load.device)
        dataset = ImageDataset(
            train=self.split, test=self.split, num_classes=NUM_CLASSES, mean=IMAGENET_MEAN, std=IMAGENET_STD
        )
        self.generator = torch.Generator(load.device).manual_seed(0)
        model = _new_model(load, fusion, recompute=recompute)
        self.step = TrainStep(model, dataset, AugmentConfig(), config, steps=config.epochs * 390)

    def __call__(self) -> None:
        self.step(self.split.images, self.split.labels, 1e-4, self.generator)


def step_with_peak(load: Workload, fusion: FusionConfig, *, recompute: bool = False) -> tuple[StepWorkload, float]:
    """Return a training step that has run, and the peak of its memory in MiB, model and optimizer included."""
    if load.device.type == "cpu":
        step = StepWorkload(load, fusion, recompute=recompute)
        step()  # creates the state of the optimizer
        resident = [*step.step.resident_tensors(), step.split.images, step.split.labels]
        return step, mib(peak_tensor_bytes(step, resident))
    built: list[StepWorkload] = []

    def build_and_warm_up() -> None:  # the allocator does not see the memory of a replayed graph
        built.append(StepWorkload(load, fusion, recompute=recompute))
        for _ in range(WARMUP_CALLS + 1):
            built[0]()

    peak = peak_mib(build_and_warm_up, load.device)
    return built[0], peak


def saved_bytes(load: Workload, fusion: FusionConfig, *, recompute: bool = False) -> float:
    """Return the bytes per image that the model's forward pass saves for backward; see `saved_bytes_per_image`."""
    model = _new_model(load, fusion, recompute=recompute)
    size = load.model.image_size

    def forward(batch: int) -> Tensor:
        with autocast(load.device, load.precision):
            out: Tensor = model(torch.randn(batch, 3, size, size, device=load.device))
        return out

    return saved_bytes_per_image(forward, model.parameters())


def peak_mib(call: Call, device: torch.device) -> float:
    """Return the peak of the memory of tensors that exist only during `call`, in MiB."""
    if device.type == "cpu":
        return mib(peak_tensor_bytes(call, resident=()))
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return mib(torch.cuda.max_memory_allocated(device) - before)


def saved_bytes_per_image(forward: Callable[[int], Tensor], parameters: Iterable[nn.Parameter]) -> float:
    """Return the bytes that each further image makes a forward pass save for backward.

    forward: batch size -> an output with a graph. The storages of autograd's saved tensors count, each once and whole,
    without the parameters. Tensors that exist once for a batch, such as weights in bfloat16, cancel in the difference.
    """
    own = {p.untyped_storage().data_ptr() for p in parameters}
    small, large = (_saved_bytes(forward, batch, own) for batch in (1, 3))
    return (large - small) / 2


def _saved_bytes(forward: Callable[[int], Tensor], batch: int, parameters: set[int]) -> int:
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward(batch)
    assert output.requires_grad
    return sum(t.untyped_storage().nbytes() for address, t in saved.items() if address not in parameters)
