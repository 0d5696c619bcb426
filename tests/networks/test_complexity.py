"""Counting of parameters and operations: by hand, and the paper's figures."""

import pytest
import torch
from torch import nn

from yolor_d2.layers import FORM_D, ConvNormAct
from yolor_d2.networks import build_network
from yolor_d2.networks.complexity import (
    Complexity,
    count_fused_parameters,
    count_parameters,
    measure_complexity,
)


def test_by_hand():
    module = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU())
    cost = measure_complexity(module.eval(), torch.zeros(1, 2, 5, 6))
    outputs = 4 * 5 * 6
    macs = outputs * 2 * 3 * 3
    # Parameters: weights and biases of the convolution; scale and shift of the norm.
    assert cost["0"] == Complexity(2 * 4 * 9 + 4, 2 * 4 * 9 + 4, macs, 2 * (macs + outputs))
    assert cost["1"] == Complexity(4 + 4, 4 + 4, 0, 2 * 2 * outputs)
    assert cost["2"] == Complexity(0, 0, 0, 0)
    assert cost["total"] == Complexity(76 + 8, 76 + 8, macs, 2 * (macs + 3 * outputs))


def test_fusing_a_norm_leaves_one_number_per_channel():
    block = ConvNormAct(2, 4, 3, form=FORM_D)
    assert count_parameters(block) == 2 * 4 * 9 + 2 * 4  # kernel, scale and shift
    assert count_fused_parameters(block) == 2 * 4 * 9 + 4  # kernel and bias


def test_a_layer_called_twice_counts_twice():
    conv = nn.Conv2d(1, 1, 1, bias=False)
    total = measure_complexity(nn.Sequential(conv, conv), torch.zeros(1, 1, 2, 2))["total"]
    assert (total.parameters, total.macs) == (1, 2 * 4)


def test_nothing_stays_behind():
    module = nn.Sequential(nn.Conv2d(1, 1, 1))
    measure_complexity(module, torch.zeros(1, 1, 2, 2))
    assert not module[0]._forward_hooks
    assert module[0].weight.grad is None


def test_published_parameters_and_flops_of_p6():
    """The paper prints 37,265,016 and 326,256.1624 M at 1280 px, without the implicit products."""
    with torch.device("meta"):
        network = build_network("yolor_p6").eval()
        cost = measure_complexity(network, torch.zeros(1, 3, 1280, 1280))
    assert count_parameters(network) == cost["total"].parameters == 37_265_016
    assert cost["total"].flops == 326_256_162_400
    assert 2 * cost["total"].macs == pytest.approx(325.1170e9, abs=5e4)
    parts = [cost[name] for name in ("backbone", "neck", "head")]
    assert sum(part.flops for part in parts) == cost["total"].flops
