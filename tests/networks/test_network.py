"""Whole networks on a tiny layout: shapes, gradients, state, options and errors."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from yolor_d2.layers import FORM_D, FORM_V7, FORM_Y
from yolor_d2.layers.conv import ACTIVATIONS
from yolor_d2.layers.fuse import fuse_for_inference
from yolor_d2.networks import VARIANTS, Variant, build_network
from yolor_d2.networks.network import customise
from yolor_d2.networks.variants import ANCHORS_640, ANCHORS_1280
from yolor_d2.ops import assign_targets, detection_losses

# The layouts of the published families, narrow and shallow.
TINY_P6 = Variant(
    form=FORM_D,
    stem=(("s2d",), ("conv", 4, 3, 1), ("conv", 8, 3, 2)),
    stages=((8, 1), (8, 2), (12, 1), (16, 1), (20, 1)),
    transition=False,
    neck_widths=(4, 6, 8, 10),
    neck_units=1,
    anchors=ANCHORS_1280,
)
TINY_SSSS = Variant(
    form=FORM_Y,
    stem=(("s2d",), ("s2d",), ("s2d",)),
    stages=((8, 2), (12, 1), (16, 1)),
    transition=True,
    neck_widths=(4, 6, 8),
    neck_units=1,
    anchors=ANCHORS_640,
)
TINY_V7 = Variant(
    form=FORM_V7,
    stem=(("conv", 4, 3, 2), ("conv", 8, 3, 2)),
    stages=((8, 4, "elan", 4), (12, 4, "e_elan", 4), (16, 2, "elan_t"), (16, 4, "elan", 8)),
    transition=False,
    downsample="mp",
    downsample_width="same",
    spp=("sppcspc",),
    neck_block="e_elan_h",
    neck_units=4,
    neck_widths=(4, 6, 8),
    neck_hidden=(4, 6, 8),
    neck_output="repconv",
    anchors=ANCHORS_640,
)
TINY_V5 = replace(
    VARIANTS["yolov5_s"],
    stem=(("focus", 4), ("conv", 8, 3, 2)),
    stages=((8, 1, "c3"), (12, 2, "c3"), (16, 1, "c3"), (16, 1, "spp_c3", 5, 9)),
    neck_widths=(4, 8, 16),
)
TINY_AUXILIARY = replace(TINY_V7, auxiliary_widths=(6, 8, 10))
TINY = {
    "YOLOv7": TINY_V7,
    "YOLOv5": TINY_V5,
    "P6, form D": TINY_P6,
    "P6, form Y": replace(TINY_P6, form=FORM_Y),
    "SSSS, form D": replace(TINY_SSSS, form=FORM_D),
    "SSSS, form Y": TINY_SSSS,
}
NOT_A_BOX = torch.zeros(0, 4)
ONE_BOX = torch.tensor([[60.0, 70.0, 40.0, 60.0]])


@pytest.fixture(params=TINY)
def variant(request):
    return TINY[request.param]


def build(variant, num_classes=3, **options):
    torch.manual_seed(0)
    return build_network(variant, num_classes, **options)


def images(size=128, channels=3):
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def training_loss(network, boxes):
    levels = network.train()(images())
    index = torch.zeros(len(boxes), dtype=torch.int64)
    grid_sizes = [tuple(level.shape[2:4]) for level in levels]
    targets = assign_targets(index, boxes, index, network.anchors, network.strides, grid_sizes)
    return sum(detection_losses(levels, targets, network.anchors, network.strides))


def test_shapes_by_level(variant):
    network = build(variant)
    levels = network(images())
    assert [tuple(x.shape) for x in levels] == [
        (2, 3, 128 // stride, 128 // stride, 8) for stride in network.strides
    ]


@pytest.mark.parametrize(("num_classes", "in_channels"), [(1, 3), (3, 12), (1, 1)])
def test_classes_and_image_channels(num_classes, in_channels):
    network = build(TINY_P6, num_classes, in_channels=in_channels)
    levels = network(images(channels=in_channels))
    assert {x.shape[-1] for x in levels} == {5 + num_classes}
    assert network.decode(levels).shape == (2, 3 * (256 + 64 + 16 + 4), 5 + num_classes)


def test_gradients_reach_every_parameter(variant):
    network = build(variant).train()
    loss = sum((x * torch.randn_like(x)).sum() for x in network(images()))
    loss.backward()
    idle = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


@pytest.mark.parametrize("boxes", [ONE_BOX, NOT_A_BOX], ids=["one box", "no boxes"])
def test_every_parameter_takes_part_in_the_loss(variant, boxes):
    """Also where an image shows nothing: data-parallel training waits for every gradient."""
    network = build(variant)
    training_loss(network, boxes).backward()
    assert [k for k, p in network.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.heavy
def test_auxiliary_heads_answer_in_training_alone():
    network = build(TINY_AUXILIARY).train()
    levels = network(images())
    shapes = [(2, 3, 128 // stride, 128 // stride, 8) for stride in network.strides]
    assert [tuple(x.shape) for x in levels] == 2 * shapes
    # Decoding leaves them out.
    assert torch.equal(network.decode(levels), network.decode(levels[:3]))
    sum((x * torch.randn_like(x)).sum() for x in levels).backward()
    idle = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle

    calls = []
    for part in (network.neck, network.head):
        part.auxiliary.apply(lambda m: m.register_forward_hook(lambda *_: calls.append(1)))
    plain = build(TINY_V7).eval()
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if "auxiliary" not in k})
    leads = network.eval()(images())
    assert not calls  # not even computed
    for a, b in zip(leads, plain(images()), strict=True):
        assert torch.equal(a, b)


# An existing block where no published network has it: ELAN-H with a window's pooling before
# YOLOv5's neck, merged branches over it, as plain data.
INVENTED = {
    "variant": "yolov5_s",
    "stem": [["focus", 8], ["csp", 16]],
    "stages": [[16, 3, "elan_h", 8], [24, 1, "c3"], [24, 2, "spp_c3", 3, 7], [32, 2, "e_elan_t"]],
    "downsample": "mp",
    "spp": ["spp_t"],
    "neck_widths": [8, 16, 24],
    "neck_block": "e_elan",
    "neck_hidden": [4, 8, 12],
    "neck_downsample": "csp",
    "neck_order": "lateral_first",
    "neck_output": "repconv",
    "auxiliary_widths": [8, 8, 16],
    "feature_alignment": "add",
}


@pytest.mark.heavy
def test_an_invented_network_is_data_alone():
    """It learns a step, keeps its outputs when it is fused, and grows."""
    network = build(customise(**INVENTED))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    before = {name: p.clone() for name, p in network.named_parameters()}
    levels = network.train()(images())
    assert len(levels) == 2 * 3
    sum(x.square().mean() for x in levels).backward()
    optimizer.step()
    assert [n for n, p in network.named_parameters() if torch.equal(p, before[n])] == []

    network.double().eval()
    fused = fuse_for_inference(network)
    for a, b in zip(network(images().double()), fused(images().double()), strict=True):
        assert (a - b).abs().max() < 1e-12
    assert not fused.fusion_report.kept and len(fused.fusion_report.dropped) == 2 * 3
    deep = build(customise(**INVENTED, depth_factor=2))
    assert len(deep(images())) == 2 * 3


@torch.no_grad()
def test_eval_is_deterministic_and_treats_images_alone(variant):
    network = build(variant).eval()
    first, again = network(images()), network(images())
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    for both, alone in zip(first, network(images()[1:])):
        torch.testing.assert_close(both[1:], alone)


@torch.no_grad()
def test_state_dict_round_trip(variant):
    source = build(variant)
    source.train()(images())  # moves the running statistics
    torch.manual_seed(1)
    target = build_network(variant, 3)
    target.load_state_dict(source.state_dict())
    for a, b in zip(source.eval()(images()), target.eval()(images())):
        assert torch.equal(a, b)


def test_anchors_move_with_the_network_but_are_not_saved():
    network = build(TINY_SSSS).double()
    assert network.anchors.dtype == torch.float64
    assert "anchors" not in network.state_dict()


def test_two_networks_of_one_seed_are_equal():
    a, b = build(TINY_P6).state_dict(), build(TINY_P6).state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_one_anchor_per_level():
    anchors = [[(10, 13)], [(30.5, 61)], [(116, 90)]]
    network = build(TINY_SSSS, anchors=anchors)
    assert network.anchors.tolist() == [[[10, 13]], [[30.5, 61]], [[116, 90]]]
    assert network(images())[0].shape == (2, 1, 16, 16, 8)


def test_implicit_operators_are_a_choice():
    network = build(TINY_P6)
    assert {x.operator for x in network.neck.align} == {"add"}  # as published
    assert {x.operator for x in network.head.refine} == {"mul"}
    network = build(TINY_P6, feature_alignment="mul", prediction_refinement="none")
    assert {x.operator for x in network.neck.align} == {"mul"}
    assert {type(x) for x in network.head.refine} == {nn.Identity}


def activations(network):
    return {type(m) for m in network.modules() if isinstance(m, (nn.SiLU, nn.Mish))}


def test_activation_is_a_choice_that_outlives_the_form():
    assert activations(build(TINY_P6)) == {ACTIVATIONS["silu"]}
    assert activations(build(TINY_P6, activation="mish")) == {ACTIVATIONS["mish"]}
    mish = replace(TINY_P6, form=replace(FORM_D, activation="mish"))
    assert activations(build(mish, form="Y")) == {ACTIVATIONS["mish"]}


@pytest.mark.parametrize("size", [(96, 128), (128, 100)])
def test_a_size_that_does_not_divide_is_named(size):
    network = build(TINY_P6)
    with pytest.raises(ValueError, match=rf"\({size[0]}, {size[1]}\), expected multiples of 64"):
        network(torch.zeros(2, 3, *size))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "yolor_x"}, "'yolor_x'"),
        ({"form": "Z"}, r"'Z', expected one of \['D', 'V7', 'Y'\]"),
        ({"activation": "relu"}, "'relu'"),
        ({"feature_alignment": "sub"}, "'sub' is not possible at this place"),
        ({"feature_alignment": "add mul"}, "two of operator"),
        ({"feature_alignment": "network"}, "names no operator"),
        ({"feature_alignment": "none network"}, "'none' stands alone"),
        ({"feature_alignment": "add tanh"}, "belongs to 'network'"),
        ({"feature_alignment": "add non_negative"}, "belongs to 'factorization'"),
        ({"feature_alignment": "add sizes"}, "'sizes' is not possible"),
        ({"feature_alignment": "concat per_anchor"}, "'concat'"),
        ({"feature_alignment": "add, mul"}, "for 2 levels.* or 3 with commas"),
        ({"prediction_refinement": "mul per_anchor"}, "'per_anchor' is not possible"),
        ({"prediction_refinement": "concat"}, "'concat'"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"anchors": ANCHORS_1280}, "each of 3 levels.* on 4 levels"),
        ({"anchors": [[(1, 2)], [(1, 2)], []]}, r"\[1, 1, 0\] pairs"),
        ({"anchors": [[], [], []]}, r"\[0, 0, 0\] pairs"),
        ({"anchors": [[(1, 2)], [(1, 2)], [(-3, 2)]]}, r"positive.*\(-3, 2\)"),
        ({"anchors": [[(1, 2)], [(1, 2)], [(1, 2, 3)]]}, r"pair.*\(1, 2, 3\)"),
    ],
)
def test_unknown_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build_network(**({"variant": TINY_SSSS} | options))


@pytest.mark.parametrize("anchors", [[1, 2, 3], [[10, 20], [30, 40], [50, 60]]])
def test_anchors_of_wrong_nesting_are_named(anchors):
    with pytest.raises(ValueError, match=r"MODEL\.YOLOR\.ANCHORS"):
        build_network("yolor_ssss_s2d", 3, anchors=anchors)
