"""Bytes saved for backward and the peak of a call, for functions whose bytes are known."""

import pytest
import torch
from torch import nn

from famba_core.bench.workloads import peak_mib, saved_bytes_per_image
from famba_core.cost.measure import mib, peak_tensor_bytes

MIB = 2**20


def test_product_saves_its_inputs_once():
    w = nn.Parameter(torch.ones(10))

    def forward(batch):
        x = torch.ones(batch, 10)
        return (x * w) + (x.view(-1).view(batch, 10) * w) + (x[:, :5].sum() * w)  # x three times, as views too

    # x has 10 floats per image; the sum is a scalar, saved once for a batch
    assert saved_bytes_per_image(forward, [w]) == 40


def test_whole_storage_of_a_view_counts():
    w = nn.Parameter(torch.ones(2))
    assert saved_bytes_per_image(lambda batch: torch.ones(batch, 8)[:, :2] * w, [w]) == 32


def test_parameters_do_not_count():
    layer = nn.Linear(6, 3, bias=False)

    def forward(batch):
        return layer(torch.ones(batch, 6)).exp()

    # the input for the weight's gradient, exp's output for its own; the weight would be for the input's gradient
    assert saved_bytes_per_image(forward, layer.parameters()) == 4 * (6 + 3)


def test_tensors_of_the_whole_batch_do_not_count():
    w = nn.Parameter(torch.ones(7))
    assert saved_bytes_per_image(lambda batch: (w.exp() * torch.ones(batch, 7)).sum(1), [w]) == 28


def test_forward_without_a_graph_is_an_error():
    with pytest.raises(AssertionError):
        saved_bytes_per_image(lambda batch: torch.ones(batch), [])


def test_peak_includes_resident_tensors():
    kept = torch.zeros(3 * MIB, dtype=torch.uint8)

    def call():
        first = torch.zeros(2 * MIB, dtype=torch.uint8)
        del first
        torch.zeros(5 * MIB, dtype=torch.uint8)

    assert peak_mib(call, torch.device("cpu")) == 5
    assert mib(peak_tensor_bytes(call, [kept, kept[5:]])) == 8
