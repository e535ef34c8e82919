"""Arithmetic on task gradients, with numbers worked out by hand. All are exact."""

import pytest
import torch

from mtlkit import gradients
from mtlkit.gradients import gram_of, inner_products, pull_back, weighted_sum


def test_inputs_without_influence_get_zeros_when_a_gradient_is_carried_back():
    used, unused = (
        torch.tensor([2.0, 3.0], requires_grad=True),
        torch.ones(2, 2, dtype=torch.float64, requires_grad=True),
    )
    levels = [used.square(), used.sum() * torch.ones(1)]
    found = pull_back(levels, [torch.tensor([1.0, 10.0]), None], [used, unused], retain_graph=True)
    assert [g.tolist() for g in found] == [[4.0, 60.0], [0.0] * 4]
    nothing = pull_back(levels, [None, None], [used, unused])
    assert [g.tolist() for g in nothing] == [[0.0] * 2, [0.0] * 4]
    assert [g.dtype for g in nothing] == [torch.float32, torch.float64]


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_blocks_add_up(block, monkeypatch):
    monkeypatch.setattr(gradients, "BLOCK", 2 * block)  # of both rows
    rows = [torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([1.0, 0.0, -1.0, 0.0, 2.0])]
    assert inner_products(rows).tolist() == [[55.0, 8.0], [8.0, 6.0]]
    assert inner_products(rows, [torch.ones(5)]).tolist() == [[15.0], [2.0]]


def test_products_of_nothing_are_zeros_in_float64():
    found = inner_products([torch.zeros(0), torch.zeros(0)], [torch.zeros(0)])
    assert found.tolist() == [[0.0], [0.0]]
    assert found.dtype == torch.float64


def test_a_level_that_no_task_uses_does_not_count():
    g = torch.tensor([[1.0, 2.0]])
    assert gram_of([[None, g, None], [g, None, None]]).tolist() == [[5.0, 0.0], [0.0, 5.0]]


@pytest.mark.parametrize("weight", [3 * 2.0**150, 3 * 2.0**149, -5 * 2.0**-151, -5 * 2.0**-150])
def test_a_weight_out_of_range_times_a_gradient_that_brings_it_back(weight):
    gradient = torch.tensor([1.0, -2.0]) * 2.0 ** (-120 if abs(weight) > 1 else 120)
    weights = torch.tensor([weight, weight], dtype=torch.float64)
    expected = (gradient.double() * weight).float()
    assert torch.equal(weighted_sum([gradient, None], weights), expected)
    assert torch.equal(weighted_sum([gradient, gradient], weights), 2 * expected)
    assert weighted_sum([None, None], weights) is None
