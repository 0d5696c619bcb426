"""Folding batch norms and implicit knowledge: same outputs, nothing left that could go."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from yolor_d2.layers import (
    FORM_D,
    FORM_Y,
    ConvNormAct,
    CSPStage,
    FixedImplicit,
    Implicit,
    build_implicit,
)
from yolor_d2.layers.fuse import fuse_for_inference
from yolor_d2.networks import VARIANTS, build_network
from yolor_d2.networks.complexity import count_parameters
from yolor_d2.networks.network import customise

OPERATORS = ("add", "mul", "concat")
REPRESENTATIONS = ("vector", "network", "factorization")
COMBINATIONS = [" ".join(pair) for pair in itertools.product(OPERATORS, REPRESENTATIONS)]
TINY = customise("yolor_csp", width_factor=0.125, depth_factor=0.01)


def stir(module):
    """Give norms and implicit tensors values far from neutral."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias)
        elif isinstance(part, Implicit):
            nn.init.uniform_(part.z, -2, 2)
    return module.eval()


def assert_same_outputs(module, fused, x):
    with torch.no_grad():
        a, b = module(x), fused(x)
    for one, other in zip(*((a, b) if isinstance(a, list) else ([a], [b]))):
        scale = one.abs().max()
        assert (one - other).abs().max() <= 1e-5 * scale


def implicit_parts(module):
    return [m for m in module.modules() if isinstance(m, (Implicit, FixedImplicit))]


# ---- Around one convolution


@pytest.mark.parametrize("words", COMBINATIONS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_in_front_of_a_convolution(words, data):
    channels = data.draw(st.integers(1, 9))
    conv_in = 2 * channels if words.startswith("concat") else channels
    padding = data.draw(st.integers(0, 1))
    mode = data.draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    kernel = data.draw(st.sampled_from([1, 3]))
    groups = 1 if words.startswith("concat") else data.draw(st.sampled_from([1, channels]))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    outputs = groups * data.draw(st.integers(1, 4))
    options = {"padding": padding, "padding_mode": mode, "groups": groups}
    conv = nn.Conv2d(conv_in, outputs, kernel, bias=data.draw(st.booleans()), **options)
    block = stir(nn.Sequential(build_implicit(words, channels), conv))
    fused = fuse_for_inference(block)
    assert_same_outputs(block, fused, torch.randn(2, channels, 4, 5))
    # An addition (and a constant channel) ends at a border of zeros.
    stays = padding > 0 and mode == "zeros" and not words.startswith("mul")
    assert len(implicit_parts(fused)) == stays
    assert list(fused.fusion_report.kept) == (["0"] if stays else [])
    assert not any(isinstance(m, Implicit) for m in fused.modules())


@pytest.mark.parametrize("words", [w for w in COMBINATIONS if "concat" not in w])
@given(channels=st.integers(1, 9), outputs=st.integers(1, 9), padding=st.integers(0, 1))
@settings(max_examples=10, deadline=None)
def test_behind_a_convolution(words, channels, outputs, padding):
    block = stir(
        nn.Sequential(
            nn.Conv2d(channels, outputs, 3, padding=padding, bias=False),
            nn.BatchNorm2d(outputs),
            build_implicit(words, outputs),
            build_implicit("mul", outputs),
        )
    )
    fused = fuse_for_inference(block)
    assert_same_outputs(block, fused, torch.randn(2, channels, 4, 5))
    assert count_parameters(fused) == outputs * (9 * channels + 1)
    assert fused.fusion_report.folded == ["1", "2", "3"] and not fused.fusion_report.kept


def test_by_hand():
    # y = 5 * (2 * (x + 3) + 1) = 10 x + 35
    block = nn.Sequential(build_implicit("add", 1), nn.Conv2d(1, 1, 1), build_implicit("mul", 1))
    for part, value in ((block[0].z, 3), (block[1].weight, 2), (block[1].bias, 1), (block[2].z, 5)):
        nn.init.constant_(part, value)
    conv = fuse_for_inference(block)[1]
    assert (conv.weight.item(), conv.bias.item()) == (10, 35)


def test_an_activation_in_between_is_an_obstacle():
    block = stir(nn.Sequential(nn.Conv2d(2, 3, 1), nn.SiLU(), build_implicit("mul", 3)))
    fused = fuse_for_inference(block)
    assert "2" in fused.fusion_report.kept and isinstance(fused[2], FixedImplicit)
    assert_same_outputs(block, fused, torch.randn(1, 2, 3, 3))


def test_a_shared_convolution_is_left_alone():
    conv = nn.Conv2d(2, 2, 1)
    block = stir(
        nn.Sequential(build_implicit("add", 2), conv, nn.ReLU(), build_implicit("mul", 2), conv)
    )
    fused = fuse_for_inference(block)
    assert_same_outputs(block, fused, torch.randn(1, 2, 3, 3))
    assert len(implicit_parts(fused)) == 2


def test_the_module_itself_may_be_a_convolution_with_norm():
    block = stir(ConvNormAct(3, 4, 3, form=FORM_D))
    fused = fuse_for_inference(block)
    assert isinstance(fused.norm, nn.Identity)
    assert_same_outputs(block, fused, torch.randn(1, 3, 4, 4))


@pytest.mark.parametrize("transition", [True, False])
def test_the_norm_over_a_concatenation(transition):
    block = stir(CSPStage(4, 8, 1, transition=transition, form=FORM_Y))
    fused = fuse_for_inference(block)
    assert_same_outputs(block, fused, torch.randn(1, 4, 4, 4))
    # Without a transition the processed branch ends with a residual sum, which stays.
    assert ("merge.norm_act.0" in fused.fusion_report.kept) is not transition


# ---- Whole networks

PLACES = {
    "feature_alignment": OPERATORS,
    "prediction_refinement": ("add", "mul"),
    "top_down": OPERATORS,
    "bottom_up": OPERATORS,
}


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (place, f"{operator} {representation}")
        for place, operators in PLACES.items()
        for operator in operators
        for representation in REPRESENTATIONS
    ]
    + [("feature_alignment", "mul per_anchor"), ("feature_alignment", "add network per_anchor")]
    + [("prediction_refinement", "mul sizes"), ("prediction_refinement", "add factorization sizes")]
    + [("feature_alignment", "mul, none, concat network")],
)
def test_any_knowledge_at_any_place(place, words):
    torch.manual_seed(0)
    network = build_network(customise(TINY, **{place: words}), 2)
    x = torch.rand(2, 3, 64, 64)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        sum(level.square().mean() for level in network(x)).backward()
        optimizer.step()
    learned = {n: p for n, p in network.named_parameters() if "implicit" in n or ".align" in n}
    learned |= {n: p for n, p in network.named_parameters() if ".refine" in n}
    assert learned and all(p.grad.abs().max() > 0 for p in learned.values())

    stir(network)
    before = copy.deepcopy(network.state_dict())
    fused = fuse_for_inference(network)
    assert_same_outputs(network, fused, x)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    if place in ("feature_alignment", "prediction_refinement"):
        assert not implicit_parts(fused)
    else:  # these maps feed several layers
        assert implicit_parts(fused) and fused.fusion_report.kept

    again = build_network(customise(TINY, **{place: words}), 2).eval()
    again.load_state_dict(network.state_dict())
    assert_same_outputs(network, again, x)


@pytest.mark.parametrize("name", ["yolor_csp", "yolor_p6", "yolor_csp_paper", "yolor_ssss_dwt"])
def test_published_networks(name):
    torch.manual_seed(0)
    network = stir(build_network(customise(name, width_factor=0.125, depth_factor=0.01), 3))
    fused = fuse_for_inference(network)
    assert_same_outputs(network, fused, torch.rand(1, 3, 128, 64))
    assert not implicit_parts(fused)
    if VARIANTS[name].form.merge_norm is False:
        assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())


def test_twice_changes_nothing():
    torch.manual_seed(0)
    network = stir(build_network(customise(TINY, top_down="add", bottom_up="mul network"), 2))
    once = fuse_for_inference(network)
    twice = fuse_for_inference(once)
    assert twice.fusion_report == once.fusion_report
    a, b = once.state_dict(), twice.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_folded_network_is_exported():
    network = stir(build_network(customise(TINY, top_down="concat network"), 2))
    fused = fuse_for_inference(network)
    x = torch.rand(2, 3, 64, 96)
    exported = torch.export.export(fused, (x,))
    for one, other in zip(fused(x), exported.module()(x)):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("with_knowledge", "without", "parameters"),
    [
        ("yolor_csp_fast", "yolov4_csp_fast", (52_911_546, 52_908_989)),
        ("yolor_p6", "yolov4_p6_light", (37_265_016, 37_262_204)),
    ],
)
def test_counts_of_table_7(with_knowledge, without, parameters):
    with torch.device("meta"):
        networks = [build_network(name) for name in (with_knowledge, without)]
    assert tuple(count_parameters(network) for network in networks) == parameters
