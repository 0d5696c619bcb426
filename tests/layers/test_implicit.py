"""Implicit modules: start, operators, gradients, errors."""

import pytest
import torch
from torch import nn

from yolor_d2.layers import ImplicitAdd, ImplicitMul, build_implicit

# The mean of so many values has a standard deviation of 0.02 / sqrt(20000) = 0.00014.
CHANNELS = 20_000


@pytest.mark.parametrize(("operator", "mean"), [("add", 0.0), ("mul", 1.0)])
def test_starts_next_to_neutral(operator, mean):
    torch.manual_seed(0)
    z = build_implicit(operator, CHANNELS).z.detach()
    assert z.shape == (1, CHANNELS, 1, 1)
    assert z.mean().item() == pytest.approx(mean, abs=0.0006)  # four deviations of the mean
    assert z.std().item() == pytest.approx(0.02, rel=0.03)


def test_reset_starts_again():
    module = ImplicitMul(8)
    nn.init.zeros_(module.z)
    module.reset_parameters()
    assert module.z.mean().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("module", "expected"),
    [(ImplicitAdd(2), [[1 + 3, 2 + 3], [5 - 1, 6 - 1]]), (ImplicitMul(2), [[3, 6], [-5, -6]])],
    ids=["add", "mul"],
)
def test_operators_by_hand(module, expected):
    with torch.no_grad():
        module.z.copy_(torch.tensor([3.0, -1.0]).view(1, 2, 1, 1))
    x = torch.tensor([[1.0, 2.0], [5.0, 6.0]]).view(1, 2, 1, 2)  # one row per channel
    assert module(x)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(("operator", "expected"), [("add", 4.0), ("mul", 4 * 3.0)])
def test_gradient_is_summed_over_batch_and_pixels(operator, expected):
    module = build_implicit(operator, 1)
    module(torch.full((2, 1, 1, 2), 3.0)).sum().backward()
    assert module.z.grad.item() == expected


def test_none_leaves_the_place_empty():
    module = build_implicit("none", 4)
    x = torch.randn(1, 4, 2, 2)
    assert module(x) is x
    assert not list(module.parameters())


def test_an_unknown_operator_is_named_beside_the_known_ones():
    with pytest.raises(ValueError, match=r"'concat'.*\['none', 'add', 'mul'\]"):
        build_implicit("concat", 4)
