"""Counting of parameters and operations: by hand, and the paper's numbers."""

import pytest
import torch
from torch import nn

from yolor_d2.layers import FORM_D, ConvNormAct, RepConv
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
    convolved = 2 * (macs + outputs)
    assert cost["0"] == Complexity(2 * 4 * 9 + 4, 2 * 4 * 9 + 4, macs, convolved, convolved)
    # Only the norm of a block is known to stand behind its convolution and is merged.
    assert cost["1"] == Complexity(4 + 4, 4 + 4, 0, 2 * 2 * outputs, 2 * 2 * outputs)
    assert cost["2"] == Complexity(0, 0, 0, 0, 0)
    flops = 2 * (macs + 3 * outputs)
    assert cost["total"] == Complexity(76 + 8, 76 + 8, macs, flops, flops)


def test_the_norm_of_a_block_leaves_an_addition_of_a_bias():
    block = ConvNormAct(2, 4, 3, form=FORM_D).eval()
    cost = measure_complexity(block, torch.zeros(1, 2, 5, 6))["total"]
    outputs = 4 * 5 * 6
    macs = outputs * 2 * 3 * 3
    assert (cost.flops, cost.fused_flops) == (2 * (macs + 2 * outputs), 2 * (macs + outputs))


def test_fusing_a_norm_leaves_one_number_per_channel():
    block = ConvNormAct(2, 4, 3, form=FORM_D)
    assert count_parameters(block) == 2 * 4 * 9 + 2 * 4  # kernel, scale and shift
    assert count_fused_parameters(block) == 2 * 4 * 9 + 4  # kernel and bias


@pytest.mark.parametrize("identity", [False, True])
def test_merged_branches_are_one_convolution(identity):
    block = RepConv(4, 4, identity=identity, form=FORM_D).eval()
    assert count_parameters(block) == 4 * 4 * (9 + 1) + (2 + identity) * (4 + 4)
    assert count_fused_parameters(block) == 4 * 4 * 9 + 4
    total = measure_complexity(block, torch.zeros(1, 4, 5, 6))["total"]
    outputs = 4 * 5 * 6
    assert total.macs == outputs * 4 * (9 + 1)
    assert total.flops == 2 * (total.macs + (2 + identity) * 2 * outputs)
    assert total.fused_flops == 2 * (outputs * 4 * 9 + outputs)
    assert total.fused_parameters == count_fused_parameters(block)


def test_a_layer_called_twice_counts_twice():
    conv = nn.Conv2d(1, 1, 1, bias=False)
    total = measure_complexity(nn.Sequential(conv, conv), torch.zeros(1, 1, 2, 2))["total"]
    assert (total.parameters, total.macs) == (1, 2 * 4)


def test_nothing_stays_behind():
    module = nn.Sequential(nn.Conv2d(1, 1, 1))
    measure_complexity(module, torch.zeros(1, 1, 2, 2))
    assert not module[0]._forward_hooks
    assert module[0].weight.grad is None


def test_auxiliary_heads_cost_in_training_alone():
    with torch.device("meta"):
        network = build_network("yolov7_w6")
        image = torch.zeros(1, 3, 64, 128)
        inference = measure_complexity(network.eval(), image)
        training = measure_complexity(network.train(), image)
    assert training["backbone"] == inference["backbone"]
    for part in ("neck", "head", "total"):
        assert training[part].parameters == inference[part].parameters
        assert training[part].macs > inference[part].macs
        assert training[part].fused_flops > inference[part].fused_flops


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
