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
    Affine,
    AnchorwiseConv,
    ConvNormAct,
    CSPStage,
    FixedImplicit,
    Implicit,
    Operator,
    RepConv,
    build_implicit,
    parse_implicit,
    register_operator,
)
from yolor_d2.layers.fuse import fuse_for_inference
from yolor_d2.layers.operators import OPERATORS as REGISTERED
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


@pytest.mark.heavy
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


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name",
    [
        *("yolor_csp", "yolor_p6", "yolor_csp_paper", "yolor_ssss_dwt"),
        *("yolov5_s6", "yolov5_s_implicit"),
    ],
)
def test_published_networks(name):
    torch.manual_seed(0)
    network = stir(build_network(customise(name, width_factor=0.125, depth_factor=0.01), 3))
    fused = fuse_for_inference(network)
    assert_same_outputs(network, fused, torch.rand(1, 3, 128, 64))
    assert not implicit_parts(fused)
    if VARIANTS[name].form.merge_norm is False:
        assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())


# The networks with implicit knowledge, branches and auxiliary heads, from small to large.
YOLOV7 = ["tiny", "", "x", "w6", "e6", "d6", "e6e"]


def assert_deployed(row):
    """The form for inference of a network in double precision is the same function."""
    torch.manual_seed(0)
    network = build_network(row, 3).double()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, std=0.2)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
        elif isinstance(norm, Implicit):
            nn.init.uniform_(norm.z, -2, 2)
    images = torch.rand(1, 3, network.size_divisibility, 2 * network.size_divisibility).double()
    with torch.no_grad():
        expected = network.eval()(images)
        boxes = network.decode(expected)
        network = fuse_for_inference(network)
        levels = network(images)
        assert max((a - b).abs().max() for a, b in zip(expected, levels, strict=True)) < 1e-9
        assert (network.decode(levels) - boxes).abs().max() < 1e-9  # pixels
    assert max(x.abs().max() for x in levels) > 0.1
    kinds = {type(m) for m in network.modules()}
    assert not kinds & {nn.BatchNorm2d, RepConv, Implicit, FixedImplicit}
    assert not network.neck.auxiliary and not network.head.auxiliary
    assert not network.fusion_report.kept


@pytest.mark.heavy
@pytest.mark.parametrize("name", YOLOV7)
def test_deploy_form_of_narrow_networks(name):
    assert_deployed(customise(f"yolov7_{name}".rstrip("_"), width_factor=0.125))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov7", "yolov7_w6"])
def test_deploy_form_at_full_width(name):
    assert_deployed(name)


AUXILIARY = customise("yolov7_w6", width_factor=0.125)


@pytest.mark.heavy
def test_what_training_alone_needs_is_dropped():
    torch.manual_seed(0)
    network = stir(build_network(AUXILIARY, 2))
    fused = fuse_for_inference(network)
    report = fused.fusion_report
    assert report.dropped == [
        f"{part}.auxiliary.{i}" for part in ("neck", "head") for i in range(4)
    ]
    assert not any(name.startswith(tuple(report.dropped)) for name in report.folded)
    assert str(report).splitlines()[0].endswith("0 kept, 8 of training alone dropped")
    assert "dropped" not in str(fuse_for_inference(build_network(TINY, 2)).fusion_report)
    assert len(network.neck.auxiliary) == len(network.head.auxiliary) == 4  # unchanged itself
    x = torch.rand(2, 3, 64, 128)
    assert len(network.train()(x)) == 8
    for a, b in zip(fused(x), fused.train()(x), strict=True):  # the leads alone
        assert torch.equal(a, b)
    assert len(fused(x)) == 4
    twice = fuse_for_inference(fused)
    assert twice.fusion_report == report
    a, b = fused.state_dict(), twice.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("part", ["neck", "head"])
def test_a_part_with_a_forward_of_its_own_keeps_what_it_may_need(part):
    """A subclass may use the auxiliary heads at inference too."""
    torch.manual_seed(0)
    network = stir(build_network(AUXILIARY, 2))
    module = getattr(network, part)

    class Other(type(module)):
        def forward(self, features):
            levels = super().forward(features)
            if part == "neck":
                return [x + self.auxiliary[0](levels[0]).mean() for x in levels]
            return [x + self.auxiliary[0].bias.sum() for x in levels]

    if part == "neck":
        module.auxiliary[0] = ConvNormAct(32, 4, 3, form=FORM_D).eval()
    module.__class__ = Other
    fused = fuse_for_inference(network)
    other = {"neck": "head", "head": "neck"}[part]
    assert fused.fusion_report.dropped == [f"{other}.auxiliary.{i}" for i in range(4)]
    assert len(getattr(fused, part).auxiliary) == 4
    assert_same_outputs(network, fused, torch.rand(1, 3, 64, 128))


def test_a_part_says_itself_what_training_alone_needs():
    class Part(nn.Module):
        training_only = ("further",)

        def __init__(self):
            super().__init__()
            self.own = nn.Linear(2, 2)
            self.further = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

        def forward(self, x):
            further = [layer(x) for layer in self.further] if self.training else []
            return self.own(x), *further

    class Inherits(Part):
        """The same `forward`, under another name."""

    class Replaced(Part):
        """What its `forward` does not use it may say itself."""

        training_only = ("further",)

        def forward(self, x):
            return (self.own(x) * 2,)

    for kind in (Part, Inherits, Replaced):
        fused = fuse_for_inference(nn.Sequential(kind()))
        assert fused.fusion_report.dropped == ["0.further.0", "0.further.1"]
        assert not fused[0].further and list(fused.state_dict()) == ["0.own.weight", "0.own.bias"]


def test_twice_changes_nothing():
    torch.manual_seed(0)
    network = stir(build_network(customise(TINY, top_down="add", bottom_up="mul network"), 2))
    once = fuse_for_inference(network)
    twice = fuse_for_inference(once)
    assert twice.fusion_report == once.fusion_report
    a, b = once.state_dict(), twice.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.heavy
def test_the_folded_network_is_exported():
    network = stir(build_network(customise(TINY, top_down="concat network"), 2))
    fused = fuse_for_inference(network)
    x = torch.rand(2, 3, 64, 96)
    exported = torch.export.export(fused, (x,))
    for one, other in zip(fused(x), exported.module()(x)):
        torch.testing.assert_close(one, other)


@pytest.mark.heavy
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


# ---- What nobody here knows


@pytest.fixture
def operators():
    """Forgets the operators of a test."""
    before = dict(REGISTERED)
    yield
    REGISTERED.clear()
    REGISTERED.update(before)


class Square(Operator):
    """x + g x^2, no affine map."""

    def apply(self, x, g):
        return x + g * x.square()


class Both(Operator):
    """exp(g) x + g."""

    def apply(self, x, g):
        return x * g.exp() + g

    def affine(self, g):
        return Affine(scale=g.exp(), shift=g)


class Wrong(Both):
    """Forgets the shift."""

    def affine(self, g):
        return Affine(scale=g.exp())


@pytest.mark.parametrize("behind", [False, True])
def test_an_operator_without_an_affine_map_is_kept(operators, behind):
    register_operator("square")(Square)
    parts = [build_implicit("square", 4), nn.Conv2d(4, 4, 1)]
    block = stir(nn.Sequential(*(reversed(parts) if behind else parts)))
    fused = fuse_for_inference(block)
    assert_same_outputs(block, fused, torch.randn(1, 4, 3, 3))
    (why,) = fused.fusion_report.kept.values()
    assert why == "operator 'square' has no affine map to fold"


@pytest.mark.parametrize("padding", [0, 1])
def test_a_new_operator_with_scale_and_shift_is_folded(operators, padding):
    register_operator("both")(Both)
    conv = nn.Conv2d(4, 6, 3, padding=padding, groups=2)
    block = stir(nn.Sequential(build_implicit("both network", 4), conv, build_implicit("both", 6)))
    fused = fuse_for_inference(block)
    assert_same_outputs(block, fused, torch.randn(1, 4, 5, 5))
    assert list(fused.fusion_report.kept) == (["0"] if padding else [])
    aligned = stir(AnchorwiseConv(4, 6, num_anchors=3, spec=parse_implicit("both")))
    x, g = torch.randn(1, 4, 2, 2), aligned.implicit.value().view(3, 1, 4, 1, 1)
    rows = zip(g, aligned.weight.chunk(3), aligned.bias.chunk(3))
    expected = [nn.functional.conv2d(x * a.exp() + a, w, b) for a, w, b in rows]
    torch.testing.assert_close(aligned(x), torch.cat(expected, dim=1))


def test_an_affine_map_that_is_not_the_operators_is_an_error(operators):
    register_operator("wrong")(Wrong)
    block = stir(nn.Sequential(build_implicit("wrong", 4), nn.Conv2d(4, 4, 1)))
    with pytest.raises(ValueError, match=r"'wrong'.*affine"):
        fuse_for_inference(block)


def test_no_affine_map_for_each_anchor(operators):
    register_operator("square")(Square)
    for words in ("square", "concat"):
        with pytest.raises(ValueError, match=f"'{words}' has no 'per_anchor'"):
            AnchorwiseConv(4, 6, num_anchors=3, spec=parse_implicit(words))


def doubled(kind):
    """A subclass whose results are twice as large."""
    forward = kind.forward
    return type(f"Double{kind.__name__}", (kind,), {"forward": lambda s, x: 2 * forward(s, x)})


def doubled_by_hook(module):
    module.register_forward_hook(lambda _, inputs, output: 2 * output)
    return module


def blocks_of_strangers():
    implicit, conv = build_implicit("add", 4), nn.Conv2d(4, 4, 1)
    double = copy.deepcopy(implicit)
    double.__class__ = doubled(type(double))
    yield "implicit", nn.Sequential(double, copy.deepcopy(conv))
    yield "convolution", nn.Sequential(implicit, doubled(nn.Conv2d)(4, 4, 1))
    yield "norm", nn.Sequential(conv, doubled(nn.BatchNorm2d)(4))
    yield "sequence", nn.Sequential(doubled(nn.Sequential)(conv), nn.BatchNorm2d(4))
    yield "block", doubled(ConvNormAct)(4, 4, form=FORM_D)
    yield "hook on an implicit module", nn.Sequential(doubled_by_hook(implicit), conv)
    yield "hook on a convolution", nn.Sequential(doubled_by_hook(nn.Conv2d(4, 4, 1)), implicit)
    stage = doubled(CSPStage)(4, 4, 1, transition=True, form=FORM_Y)
    yield "stage", nn.Sequential(stage, nn.BatchNorm2d(4))

    class Reversed(ConvNormAct):
        def forward(self, x):
            return self.conv(self.norm(x))

    yield "another order", Reversed(4, 4, form=FORM_D)


@pytest.mark.parametrize(("kind", "block"), list(blocks_of_strangers()))
def test_a_subclass_with_a_forward_of_its_own_is_left_alone(kind, block):
    torch.manual_seed(0)
    block = stir(block)
    assert_same_outputs(block, fuse_for_inference(block), torch.randn(2, 4, 4, 4))


@pytest.mark.parametrize("part", ["neck", "head"])
def test_a_part_with_a_forward_of_its_own_ends_the_networks_chains(part):
    torch.manual_seed(0)
    network = stir(build_network(TINY, 2))

    class Other(type(getattr(network, part))):
        def forward(self, features):
            features = features if part == "neck" else [x.relu() for x in features]
            levels = super().forward(features)
            return [x.relu() for x in levels] if part == "neck" else levels

    getattr(network, part).__class__ = Other
    fused = fuse_for_inference(network)
    assert_same_outputs(network, fused, torch.rand(1, 3, 64, 64))
    assert any(name.startswith("neck.align") for name in fused.fusion_report.kept)
