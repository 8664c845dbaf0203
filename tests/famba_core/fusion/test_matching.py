"""Which tokens fuse, and the merge: against a twin that walks the tokens, and what holds whatever the tokens are."""

import pytest
import torch
from backends import needs_kernels
from fusion_twin import choose_pairs, fuse, order_after
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from famba_core.fusion import matching
from famba_core.fusion.matching import Match, merge_tokens, shares
from famba_core.fusion.schedule import most_removable
from famba_core.ops.cpu import bindings

ORDERS = ["concat", "raster"]


@pytest.fixture(params=["torch", pytest.param("cpu", marks=needs_kernels)], scope="module")
def match(request):
    """Return the matching function of each backend."""
    return {"torch": matching, "cpu": bindings}[request.param].match


def merge(values: Tensor, sizes: Tensor, matched: Match, weighting: str) -> tuple[Tensor, Tensor]:
    """Return the fused tokens and their sizes."""
    plan, after = shares(matched, sizes, weighting)
    return merge_tokens(values, plan), after


@st.composite
def fusions(draw: st.DrawFn) -> tuple[Tensor, int, Tensor, str]:
    """metric [B, L, D], r, class_index [B], order."""
    batch, length = draw(st.integers(1, 3)), draw(st.integers(3, 23))
    r = draw(st.integers(1, most_removable(length)))
    class_index = torch.tensor(draw(st.lists(st.integers(0, length - 1), min_size=batch, max_size=batch)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    return torch.randn(batch, length, 5, generator=generator), r, class_index, draw(st.sampled_from(ORDERS))


@settings(deadline=None, max_examples=200)
@given(fusions(), st.sampled_from(["mean", "size"]))
def test_fusion_equals_the_naive_twin(match, fusion, weighting):
    metric, r, class_index, order = fusion
    batch, length, _ = metric.shape
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(batch, length, 3, generator=generator)
    sizes = torch.randint(1, 5, (batch, length), generator=generator).float()
    weights = sizes if weighting == "size" else torch.ones_like(sizes)
    matched = match(metric, r, class_index, order)
    merged, merged_sizes = merge(values, sizes, matched, weighting)
    for i in range(batch):
        pairs = choose_pairs(metric[i].double(), r, int(class_index[i]))
        expected = torch.stack(fuse(list(values[i].double()), weights[i].tolist(), pairs, order))
        torch.testing.assert_close(merged[i].double(), expected, rtol=1e-5, atol=1e-6)
        stay = order_after(length, pairs, order)
        assert matched.class_index[i] == stay.index(int(class_index[i]))
        assert merged_sizes[i].tolist() == [
            sizes[i, j].item() + sum(sizes[i, a].item() for a, b in pairs.items() if b == j) for j in stay
        ]


@settings(deadline=None, max_examples=100)
@given(fusions())
def test_fusion_keeps_its_invariants(match, fusion):
    metric, r, class_index, order = fusion
    batch, length, _ = metric.shape
    matched = match(metric, r, class_index, order)
    rows = torch.arange(batch)
    assert matched.length == length - r
    for i in range(batch):
        # every place is taken, and the class token's by it alone
        assert set(matched.target[i].tolist()) == set(range(length - r))
        assert (matched.target[i] == matched.class_index[i]).sum() == 1
    assert torch.equal(matched.target[rows, class_index], matched.class_index)

    values = torch.randn(batch, length, 4, generator=torch.Generator().manual_seed(2))
    sizes = torch.randint(1, 9, (batch, length), generator=torch.Generator().manual_seed(3)).float()
    merged, merged_sizes = merge(values, sizes, matched, "size")
    assert torch.equal(merged_sizes.sum(1), sizes.sum(1))
    torch.testing.assert_close(
        (merged * merged_sizes.unsqueeze(-1)).sum(1), (values * sizes.unsqueeze(-1)).sum(1), rtol=1e-5, atol=1e-4
    )


def test_pairs_and_orders_equal_an_example_by_hand(match):
    # directions in the plane, by angle: even tokens 2, 4, 6 look like odd tokens 1, 1, 5 at 10, 40 and 20 degrees
    angles = torch.tensor([0.0, 100.0, 110.0, 300.0, 140.0, 200.0, 220.0])
    metric = torch.stack((angles.deg2rad().cos(), angles.deg2rad().sin()), dim=1)[None]
    metric = metric * torch.tensor([1.0, 5.0, 0.1, 2.0, 1.0, 7.0, 3.0])[:, None]  # cosine does not see lengths
    class_index = torch.tensor([0])
    values = torch.tensor([[10.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])[None]
    ones = torch.ones(1, 7)
    expected = {
        (1, "concat"): [10.0, 4.0, 6.0, 1.5, 3.0, 5.0],
        (1, "raster"): [10.0, 1.5, 3.0, 4.0, 5.0, 6.0],
        (2, "concat"): [10.0, 4.0, 1.5, 3.0, 5.5],
        (2, "raster"): [10.0, 1.5, 3.0, 4.0, 5.5],
        (3, "concat"): [10.0, 7 / 3, 3.0, 5.5],
        (3, "raster"): [10.0, 7 / 3, 3.0, 5.5],
    }
    for (r, order), merged in expected.items():
        found, _ = merge(values, ones, match(metric, r, class_index, order), "mean")
        torch.testing.assert_close(found, torch.tensor(merged)[None, :, None], msg=f"r {r}, {order}")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("class_at", [0, 6, 7])
def test_class_token_never_fuses_even_with_copies_of_itself(match, class_at, order):
    metric = torch.randn(1, 15, 8, generator=torch.Generator().manual_seed(0))
    metric[0, ::3] = metric[0, class_at]  # nothing is more similar to it
    matched = match(metric, 7, torch.tensor([class_at]), order)
    assert (matched.target[0] == matched.class_index[0]).sum() == 1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("class_at", range(5))
@pytest.mark.parametrize("length", [3, 4, 5])
def test_short_sequences_fuse_as_much_as_possible(match, length, class_at, order):
    if class_at >= length:
        return
    metric = torch.randn(2, length, 8, generator=torch.Generator().manual_seed(0))
    matched = match(metric, most_removable(length), torch.full((2,), class_at), order)
    assert ((matched.target == matched.class_index[:, None]).sum(1) == 1).all()
    assert all(set(row.tolist()) == set(range(matched.length)) for row in matched.target)


def test_raster_order_keeps_the_order_of_the_positions(match):
    length, r = 33, 12
    metric = torch.randn(4, length, 6, generator=torch.Generator().manual_seed(5))
    target = match(metric, r, torch.zeros(4, dtype=torch.long), "raster").target
    for i, row in enumerate(target):
        stay = order_after(length, choose_pairs(metric[i], r, 0), "raster")
        assert row[stay].tolist() == list(range(length - r))


def test_fusion_of_an_image_does_not_depend_on_its_batch(match):
    metric = torch.randn(6, 21, 4, generator=torch.Generator().manual_seed(7))
    class_index = torch.tensor([0, 3, 10, 20, 7, 1])
    turn = torch.tensor([4, 2, 0, 5, 1, 3])
    together = match(metric, 8, class_index, "raster")
    turned = match(metric[turn], 8, class_index[turn], "raster")
    assert torch.equal(turned.target, together.target[turn])
    for i in range(6):
        assert torch.equal(match(metric[i : i + 1], 8, class_index[i : i + 1], "raster").target[0], together.target[i])


def test_identical_tokens_fuse_into_themselves(match):
    token = torch.tensor([0.25, -3.0, 0.5, 8.0])
    values = token.expand(2, 9, 4)
    matched = match(values, 4, torch.zeros(2, dtype=torch.long), "concat")
    merged, _ = merge(values, torch.ones(2, 9), matched, "mean")
    torch.testing.assert_close(merged, values[:, :5], rtol=1e-6, atol=0)


def test_gradient_of_each_token_is_its_share(match):
    metric = torch.randn(2, 11, 4, generator=torch.Generator().manual_seed(8))
    matched = match(metric, 4, torch.zeros(2, dtype=torch.long), "concat")
    sizes = torch.arange(1.0, 12.0).expand(2, 11)
    values = torch.randn(2, 11, 3, requires_grad=True)
    merged, merged_sizes = merge(values, sizes, matched, "size")
    merged.sum().backward()
    share = sizes / merged_sizes.gather(1, matched.target)
    torch.testing.assert_close(values.grad, share.unsqueeze(-1).expand_as(values))
    assert torch.autograd.gradcheck(
        lambda x: merge(x, sizes.double(), matched, "size")[0],
        torch.randn(2, 11, 3, dtype=torch.float64, requires_grad=True),
    )


def test_similarities_keep_their_precision_under_autocast(match):
    # partners differ by an angle of 1e-3, less than bfloat16 can tell
    metric = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 2e-3], [1.0, 1.5e-3], [0.0, 1.0]]])
    with torch.autocast("cpu", torch.bfloat16):
        matched = match(metric, 1, torch.tensor([0]), "raster")
    assert matched.target.tolist() == [[0, 1, 2, 2, 3]]
