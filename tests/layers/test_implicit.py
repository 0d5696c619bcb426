"""Implicit modules: words, start, operators, representations, constraints, gradients."""

import itertools
import math

import pytest
import torch
from torch import nn

from yolor_d2.layers import (
    AnchorwiseConv,
    ImplicitOptions,
    build_implicit,
    implicit_penalty,
    parse_implicit,
)

OPERATORS = ("add", "mul", "concat")
REPRESENTATIONS = ("vector", "network", "factorization")
COMBINATIONS = [" ".join(pair) for pair in itertools.product(OPERATORS, REPRESENTATIONS)]


@pytest.mark.parametrize(("operator", "mean"), [("add", 0.0), ("mul", 1.0), ("concat", 0.0)])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_starts_next_to_neutral(operator, mean, representation):
    # The mean of 2,000 values has a standard deviation of 0.02 / sqrt(2000) = 0.00045.
    torch.manual_seed(0)
    g = build_implicit(f"{operator} {representation}", 2000).value().detach()
    assert g.shape == (1, 2000, 1, 1)
    assert g.mean().item() == pytest.approx(mean, abs=0.0018)  # four deviations of the mean
    assert g.std().item() == pytest.approx(0.02, rel=0.1)


def test_reset_starts_again():
    for words in COMBINATIONS:
        module = build_implicit(words, 8)
        nn.init.constant_(module.z, 7)
        module.reset_parameters()
        assert (module.z - 7).abs().min() > 3


def x_of_two_channels():
    return torch.tensor([[1.0, 2.0], [5.0, 6.0]]).view(1, 2, 1, 2)  # one row per channel


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("add", [[1 + 3, 2 + 3], [5 - 1, 6 - 1]]),
        ("mul", [[3, 6], [-5, -6]]),
        ("concat", [[3, 3], [-1, -1], [1, 2], [5, 6]]),  # the implicit part first
    ],
)
def test_operators_by_hand(operator, expected):
    module = build_implicit(operator, 2)
    with torch.no_grad():
        module.z.copy_(torch.tensor([3.0, -1.0]).view(1, 2, 1, 1))
    out = module(x_of_two_channels())
    assert out[0, :, 0].tolist() == expected
    assert module.out_channels == len(expected)


def test_a_network_by_hand():
    # W z = (1 - 2 + 0 + 1, 0 + 2 + 3 + 0) = (0, 5), and 1 + W z under a multiplication.
    weight = torch.tensor([[1.0, -1, 0, 1], [0, 1, 1, 0]])
    z = torch.tensor([1.0, 2, 3, 1])
    for words, expected in [
        ("add network", [0, 5]),
        ("mul network", [1, 6]),
        ("mul network tanh", [1, 1 + math.tanh(5)]),
    ]:
        module = build_implicit(words, 2)
        with torch.no_grad():
            module.weight.copy_(weight)
            module.z.copy_(z)
        assert module.value().flatten().tolist() == pytest.approx(expected)


def test_a_factorization_by_hand():
    # Z^T c = 2 * (1, -4) - 1 * (3, 5) = (-1, -13); with absolute values 2 * (1, 4) + (3, 5).
    for words, expected in [
        ("add factorization", [-1, -13]),
        ("add factorization non_negative", [5, 13]),
    ]:
        module = build_implicit(words, 2)
        with torch.no_grad():
            module.z.copy_(torch.tensor([[1.0, -4], [3, 5]]))
            module.c.copy_(torch.tensor([2.0, -1]))
        assert module.value().flatten().tolist() == expected


def test_prior_dimension_is_a_choice():
    options = ImplicitOptions(prior_factor=3)
    network = build_implicit("add network", 4, options=options)
    assert (network.z.shape, network.weight.shape) == ((12,), (4, 12))
    factorization = build_implicit("add factorization", 4, options=options)
    assert (factorization.z.shape, factorization.c.shape) == ((3, 4), (3,))


def test_sparsity_is_the_weighted_l1_norm_of_c():
    options = ImplicitOptions(sparsity=0.5)
    model = nn.Sequential(
        build_implicit("add factorization", 4, options=options),
        build_implicit("mul factorization", 4, options=options),
        build_implicit("add", 4, options=options),  # has no c
    )
    assert implicit_penalty(model).item() == pytest.approx(0.5 * (1 + 1))  # c = (1/2, 1/2) twice
    implicit_penalty(model).backward()
    assert model[0].c.grad.tolist() == [0.5, 0.5]
    assert implicit_penalty(build_implicit("add factorization", 4)) is None


def test_positions_leave_the_others_neutral():
    module = build_implicit("mul", 6, positions=[1, 4])
    assert module.z.numel() == 2
    with torch.no_grad():
        module.z.copy_(torch.tensor([3.0, 5.0]).view(1, 2, 1, 1))
    assert module.value().flatten().tolist() == [1, 3, 1, 1, 5, 1]


@pytest.mark.parametrize("words", [*COMBINATIONS, "mul network relu", "add network silu"])
def test_gradient_reaches_every_parameter(words):
    torch.manual_seed(0)
    module = build_implicit(words, 64)
    module(torch.randn(2, 64, 2, 2)).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in module.parameters())


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


@pytest.mark.parametrize("operator", ["add", "mul"])
def test_anchorwise_alignment_equals_one_convolution_per_anchor(operator):
    torch.manual_seed(0)
    conv = AnchorwiseConv(4, 6, num_anchors=3, spec=parse_implicit(operator))
    nn.init.normal_(conv.implicit.z)
    x, g = torch.randn(2, 4, 5, 5), conv.implicit.value().view(3, 1, 4, 1, 1)
    aligned = [x + g[a] if operator == "add" else x * g[a] for a in range(3)]
    expected = [
        nn.functional.conv2d(
            aligned[a], conv.weight[2 * a : 2 * a + 2], conv.bias[2 * a : 2 * a + 2]
        )
        for a in range(3)
    ]
    torch.testing.assert_close(conv(x), torch.cat(expected, dim=1))


@pytest.mark.parametrize("words", ["sub", "add per_anchor", "add sizes"])
def test_an_unknown_word_is_named_beside_the_known_ones(words):
    unknown = words.split()[-1]
    with pytest.raises(ValueError, match=rf"'{unknown}'.*\['none', 'add', 'mul', 'concat'"):
        build_implicit(words, 4)


@pytest.mark.parametrize(
    ("options", "key"), [({"std": -1}, "STD"), ({"prior_factor": 0}, "PRIOR_FACTOR")]
)
def test_options_are_checked(options, key):
    with pytest.raises(ValueError, match=f"MODEL.YOLOR.IMPLICIT.{key}"):
        ImplicitOptions(**options)
