"""Memory of a call: its peak, and the bytes that a forward pass saves for backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from famba_core.bench.timing import Call
from famba_core.cost.measure import mib, peak_tensor_bytes


def peak_mib(call: Call, device: torch.device, resident: Iterable[Tensor] = ()) -> float:
    """Return the peak of the memory of tensors during `call`, in MiB, with `resident`, which exists before."""
    if device.type == "cpu":
        return mib(peak_tensor_bytes(call, resident))
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in resident}
    return mib(torch.cuda.max_memory_allocated(device) - before + sum(kept.values()))


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
