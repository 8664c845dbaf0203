"""The fused block against a layer composed of the naive scan in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from backends import needs_kernels
from torch import Tensor

from famba_core.config import ConfigError
from famba_core.fusion.matching import Merge, match, shares
from famba_core.models.vim.model import Block

pytestmark = needs_kernels


def block_and_input(width: int, states: int, length: int, batch: int = 3) -> tuple[Block, Tensor]:
    torch.manual_seed(0)
    block = Block(width, states, 2, "cpu")
    for parameter in block.parameters():  # away from the initial ones, where both directions are alike
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return block, torch.randn(batch, length, width)


def merge_of(residual: Tensor, r: int, weighting: str = "mean") -> Merge | None:
    if r == 0:
        return None
    batch, length, _ = residual.shape
    sizes = torch.randint(1, 4, (batch, length)).float()
    matched = match(residual, r, torch.zeros(batch, dtype=torch.long), "concat")
    return shares(matched, sizes, weighting)[0]


def run(block: Block, residual: Tensor, merge: Merge | None, *, recompute: bool = False, bf16: bool = False):
    """Return the output, and the gradients of the residual and the parameters."""
    block.zero_grad()
    leaf = residual.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = block(leaf, merge, recompute)
    pull = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (out.double() * pull).sum().backward()
    assert leaf.grad is not None
    return out.detach(), [leaf.grad, *(p.grad for p in block.parameters())]


def naive(block: Block) -> Block:
    twin = copy.deepcopy(block).double()
    twin.backend = "reference"
    return twin


def error(found: Tensor, expected: Tensor) -> float:
    # of a single token A has no gradient at all
    return ((found.double() - expected).norm() / expected.norm().clamp(min=1e-9)).item()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("width", "states", "length", "r", "weighting"),
    [
        (8, 4, 1, 0, "mean"),
        (8, 1, 7, 3, "mean"),
        (24, 16, 33, 0, "mean"),
        (24, 16, 33, 9, "size"),
        (40, 8, 18, 8, "mean"),
        (80, 32, 5, 1, "size"),
    ],
)
def test_fused_block_equals_the_composed_layer(width, states, length, r, weighting, recompute):
    block, residual = block_and_input(width, states, length)
    merge = merge_of(residual, r, weighting)
    out, grads = run(block, residual, merge, recompute=recompute)
    double = merge and merge._replace(share=merge.share.double())
    expected, expected_grads = run(naive(block), residual.double(), double)
    assert error(out, expected) < 1e-5
    for grad, twin in zip(grads, expected_grads, strict=True):
        assert error(grad, twin) < 1e-4


@pytest.mark.parametrize("r", [0, 5])
def test_bfloat16_block_is_near_the_composed_layer(r):
    block, residual = block_and_input(32, 16, 21)
    merge = merge_of(residual, r)
    out, grads = run(block, residual, merge, bf16=True)
    double = merge and merge._replace(share=merge.share.double())
    expected, expected_grads = run(naive(block), residual.double(), double)
    assert out.dtype == torch.float32
    assert error(out, expected) < 1e-2
    for grad, twin in zip(grads, expected_grads, strict=True):
        assert grad.dtype == torch.float32
        assert error(grad, twin) < 3e-2  # eight bits, through a dozen of roundings


def test_recompute_changes_no_bit_of_the_results():
    block, residual = block_and_input(16, 4, 12)
    merge = merge_of(residual, 4)
    kept, computed_again = run(block, residual, merge), run(block, residual, merge, recompute=True)
    assert torch.equal(kept[0], computed_again[0])
    assert all(torch.equal(a, b) for a, b in zip(kept[1], computed_again[1], strict=True))


def saved_floats(block: Block, residual: Tensor, merge: Merge | None, recompute: bool) -> int:
    """Count the floats that a layer keeps for backward, parameters excluded."""
    parameters = {p.data_ptr() for p in block.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        block(residual.clone().requires_grad_(), merge, recompute)
    return sum(saved.values()) // 4


def test_block_keeps_the_residual_the_projections_and_the_merge():
    batch, length, r, width, states, rank = 3, 20, 6, 32, 4, 2
    block, residual = block_and_input(width, states, length, batch)
    merge = merge_of(residual, r)
    before, after, per_token = batch * length, batch * (length - r), 4 * width + 2 * (rank + 2 * states)
    target_and_share = 3 * before  # the target has eight bytes
    assert saved_floats(block, residual, None, recompute=False) == before * (width + per_token)
    assert saved_floats(block, residual, None, recompute=True) == before * width
    assert saved_floats(block, residual, merge, recompute=False) == (
        before * width + target_and_share + after * per_token
    )
    assert saved_floats(block, residual, merge, recompute=True) == before * width + target_and_share


def test_results_do_not_depend_on_the_number_of_threads():
    block, residual = block_and_input(136, 8, 15, batch=2)  # more channels than one thread's chunk
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            out, grads = run(block, residual, merge_of(residual, 4))
            results.append([out, grads[0], block.mixer.A_log.grad, block.mixer.conv1d_b.weight.grad])
    finally:
        torch.set_num_threads(threads)
    # the kernels' sums; matrix products are the library's, which may split theirs differently
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_block_without_kernels_for_its_sizes_is_composed():
    block, residual = block_and_input(16, 3, 9)
    block.backend = "auto"
    expected, expected_grads = run(naive(block), residual.double(), None)
    for recompute in (False, True):
        out, grads = run(block, residual, None, recompute=recompute)
        assert error(out, expected) < 1e-5
        assert all(error(g, t) < 1e-4 for g, t in zip(grads, expected_grads, strict=True))


def test_non_contiguous_residual_gives_the_same_results():
    block, residual = block_and_input(16, 4, 12)
    merge = merge_of(residual, 4)
    holes = torch.stack((residual, residual + 1), dim=-1)[..., 0]
    assert not holes.is_contiguous()
    for found, expected in zip(block(holes, merge, False), block(residual, merge, False), strict=True):
        assert torch.equal(found, expected)
    class_index = torch.zeros(3, dtype=torch.long)
    matched, expected = (block.match(x, 4, class_index, "concat") for x in (holes, residual))
    assert torch.equal(matched.target, expected.target)


def test_block_in_another_dtype_does_not_use_the_kernels():
    block, residual = block_and_input(16, 4, 9)
    expected = naive(block)(residual.double(), None, False)
    found = block.bfloat16()(residual.bfloat16(), None, False)
    assert found.dtype == torch.bfloat16
    assert error(found, expected) < 3e-2


def test_autocast_to_an_unsupported_dtype_is_refused():
    block, residual = block_and_input(16, 4, 9)
    with torch.autocast("cpu", torch.float16), pytest.raises(ConfigError, match=r"choose torch\.bfloat16"):
        block(residual, None, False)
