"""The published networks: parameters, FLOPs, shapes, forms; on the meta device, without values."""

from dataclasses import replace
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from torch import nn

from yolor_d2.layers import FORM_D, FORM_V7, FORM_Y, Implicit
from yolor_d2.layers.conv import ACTIVATIONS
from yolor_d2.layers.fuse import fuse_for_inference
from yolor_d2.networks import VARIANTS, Variant, build_network, get_variant
from yolor_d2.networks.complexity import measure_complexity
from yolor_d2.networks.network import customise
from yolor_d2.networks.variant import scale
from yolor_d2.networks.variants import SMALL_CSP, STEM_C

# What the paper's tables and the authors' configurations have with 80 classes: parameters, the same
# with norms fused, implicit parameters, and 10^9 FLOPs, counted the paper's way, at a size. The
# paper's tables 7, A1 and A2 have the parameters of CSP-fast and the P6 family, and the fused ones
# of SSS, SSSS and Scaled-YOLOv4-P6; all counts of table A2 for YOLOv5 are fused ones. The network
# with auxiliary heads counts them among its parameters, but not among its FLOPs, which are those of
# inference. None: not published in this convention.
PUBLISHED = {
    "yolov4_csp": (52_921_437, 52_889_053, 0, 120.6368, 640),
    "yolov4_csp_paper": (52_924_765, 52_895_965, 0, 120.645, 640),
    "yolov4_csp_x": (99_751_053, 99_703_061, 0, 222.4303, 640),
    "yolov4_csp_fast": (52_908_989, 52_876_637, 0, 117.5172952, 640),
    "yolov4_csp_sss_s2d": (9_299_645, 9_290_077, 0, 17.9212, 640),
    "yolov4_csp_sss_dwt": (9_299_645, 9_290_077, 0, 17.9212, 640),
    "yolov4_csp_ssss_s2d": (9_214_973, 9_205_693, 0, 16.1124, 640),
    "yolov4_csp_ssss_dwt": (9_214_973, 9_205_693, 0, 16.1124, 640),
    "yolov4_p6_light": (37_262_204, 37_230_012, 0, 326.2561624, 1280),
    "yolor_csp": (52_923_994, 52_891_610, 2_557, 120.6368, 640),
    "yolor_csp_paper": (52_927_322, 52_898_522, 2_557, 120.645, 640),
    "yolor_csp_x": (99_754_058, 99_706_066, 3_005, 222.4303, 640),
    "yolor_csp_fast": (52_911_546, 52_879_194, 2_557, 117.5172952, 640),
    "yolor_sss_s2d": (9_301_306, 9_291_738, 1_661, 17.9212, 640),
    "yolor_sss_dwt": (9_301_306, 9_291_738, 1_661, 17.9212, 640),
    "yolor_ssss_s2d": (9_216_634, 9_207_354, 1_661, 16.1124, 640),
    "yolor_ssss_dwt": (9_216_634, 9_207_354, 1_661, 16.1124, 640),
    "yolor_p6": (37_265_016, 37_232_824, 2_812, 326.2562, 1280),
    "yolor_p6_paper": (37_270_264, 37_240_696, 2_812, 326.3298, 1280),
    "yolor_w6": (79_873_400, 79_828_024, 3_580, 453.8933, 1280),
    "yolor_w6_paper": (79_880_952, 79_839_352, 3_580, 453.9752, 1280),
    "yolor_e6": (115_909_400, 115_854_280, 4_220, 684.0542, 1280),
    "yolor_d6": (151_782_680, 151_710_920, 4_220, 936.7938, 1280),
    "scaled_yolov4_p5": (70_834_012, 70_794_268, 0, 327.7424, 896),
    "scaled_yolov4_p6": (127_590_576, 127_530_352, 0, 719.3078, 1280),
    "scaled_yolov4_p7": (287_575_580, 287_474_700, 0, 1640.8349, 1536),
    "yolov7_tiny": (6_228_762, 6_221_370, 1_661, 13.7843, 640),
    "yolov7": (37_622_682, 36_907_898, 2_557, 106.1239, 640),
    "yolov7_x": (71_347_394, 71_314_746, 3_005, 190.1294, 640),
    "yolov7_w6": (82_312_436, 82_277_300, 3_580, 360.5798, 1280),
    "yolov7_e6": (111_898_292, 111_851_380, 4_220, 515.8036, 1280),
    "yolov7_d6": (154_709_364, 154_652_532, 4_860, 703.4080, 1280),
    "yolov7_e6e": (166_408_884, 166_335_860, 4_220, 844.2781, 1280),
    "yolov7_tiny_deploy": (6_227_101, 6_219_709, 0, 13.7843, 640),
    "yolov7_deploy": (37_620_125, 36_905_341, 0, 106.1239, 640),
    "yolov7_x_deploy": (71_344_389, 71_311_741, 0, 190.1294, 640),
    "yolov7_w6_deploy": (70_426_236, 70_394_300, 0, 360.5798, 1280),
    "yolov7_e6_deploy": (97_246_652, 97_202_940, 0, 515.8036, 1280),
    "yolov7_d6_deploy": (133_810_044, 133_757_052, 0, 703.4080, 1280),
    "yolov7_e6e_deploy": (151_757_244, 151_687_420, 0, 844.2781, 1280),
    "yolov5_s": (7_276_605, 7_266_973, 0, 17.0600, 640),
    "yolov5_m": (21_375_645, 21_356_877, 0, None, 640),
    "yolov5_l": (47_056_765, 47_025_981, 0, None, 640),
    "yolov5_x": (87_775_965, 87_730_285, 0, None, 640),
    "yolov5_s6": (12_667_836, 12_653_596, 0, 69.7001, 1280),
    "yolov5_m6": (35_917_020, 35_889_612, 0, 209.8779, 1280),
    "yolov5_l6": (77_263_228, 77_218_620, 0, 471.3981, 1280),
    "yolov5_x6": (141_821_340, 141_755_500, 0, 892.5992, 1280),
    "yolov5_s_implicit": (7_278_266, 7_268_634, 1_661, 17.0600, 640),
}


class Deployment(NamedTuple):
    """What the tables of YOLOv7 and YOLOv5 say of a network in its form for inference.

    Attributes:
        parameters: with norms, branches and implicit knowledge folded, auxiliary heads dropped.
        macs: 10^9 operations of the multiply-accumulates alone, 2 for each.
        gflops: the same and the additions of biases: the number that the papers print.
        keys: tensors in the authors' state dict of the network as it is trained, where known.
    """

    parameters: int
    macs: float
    gflops: float
    keys: int | None = None


DEPLOYMENTS = {
    "yolov7_tiny": Deployment(6_219_709, 13.7007, 13.7446, 344),
    "yolov7": Deployment(36_905_341, 104.5111, 104.6847, 566),
    "yolov7_x": Deployment(71_311_741, 189.6737, 189.9037, 644),
    "yolov7_w6": Deployment(70_394_300, 359.7173, 360.1572, 668),
    "yolov7_e6": Deployment(97_202_940, 514.4257, 515.1233, 896),
    "yolov7_d6": Deployment(133_757_052, 701.7382, 702.5817, 1028),
    "yolov7_e6e": Deployment(151_687_420, 842.1843, 843.2398, 1490),
    "yolov5_s": Deployment(7_266_973, 16.9578, 17.0111, 362),
    "yolov5_m": Deployment(21_356_877, 51.2317, 51.3316),
    "yolov5_l": Deployment(47_025_981, 115.2852, 115.4464),
    "yolov5_x": Deployment(87_730_285, 218.5554, 218.7926),
    "yolov5_s6": Deployment(12_653_596, 69.2863, 69.5019, 472),
    "yolov5_m6": Deployment(35_889_612, 209.0852, 209.4903, 652),
    "yolov5_l6": Deployment(77_218_620, 470.1061, 470.7608, 832),
    "yolov5_x6": Deployment(141_755_500, 890.6875, 891.6520, 1012),
    "yolov5_s_implicit": Deployment(7_266_973, 16.9578, 17.0111),
}
# Tensors in the authors' state dicts for inference, before anything is folded.
DEPLOYED_KEYS = {
    "yolov7_tiny": 338,
    "yolov7": 560,
    "yolov7_x": 638,
    "yolov7_w6": 628,
    "yolov7_e6": 856,
    "yolov7_d6": 988,
    "yolov7_e6e": 1450,
}
DEPLOYMENTS |= {
    f"{name}_deploy": DEPLOYMENTS[name]._replace(keys=keys) for name, keys in DEPLOYED_KEYS.items()
}
# Theirs also hold the anchors, twice.
THEIR_ANCHORS = 2
# Parameters of the predictions of auxiliary heads, and 10^9 FLOPs of the network as it is trained.
AUXILIARY = {
    "yolov7_w6": (817_020, 421.0500),
    "yolov7_e6": (817_020, 589.5449),
    "yolov7_d6": (980_220, 807.8192),
    "yolov7_e6e": (817_020, 918.0193),
}
# Levels: three from stride 8 on, but for these.
STRIDES = {
    **{name: [8, 16, 32, 64] for name in VARIANTS if "6" in name},
    "scaled_yolov4_p7": [8, 16, 32, 64, 128],
}
# Form D and SiLU, but for these.
FORM_Y_NAMES = [
    *("yolov4_csp_paper", "yolor_csp_paper", "yolor_p6_paper", "yolor_w6_paper"),
    *("yolor_e6", "yolor_d6"),
    *(name for name in VARIANTS if "sss" in name or "scaled" in name),
]
FORM_V7_NAMES = [name for name in VARIANTS if "yolov7" in name or "yolov5" in name]
ACTIVATION = dict.fromkeys(
    [
        *("yolov4_csp_paper", "yolov4_csp_fast", "yolor_csp_fast", "yolov4_p6_light"),
        *(name for name in VARIANTS if "scaled" in name),
    ],
    "mish",
) | dict.fromkeys(["yolov7_tiny", "yolov7_tiny_deploy"], "leaky_relu")


def build_on_meta(name, **options):
    with torch.device("meta"):
        return build_network(name, **options)


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_every_network_is_checked_here():
    assert set(VARIANTS) == set(PUBLISHED)


@pytest.mark.heavy
@pytest.mark.parametrize("name", VARIANTS)
def test_published_network(name):
    """Form, parameters, FLOPs, strides, shapes, gradients: one look at each model."""
    parameters, fused, implicit, gflops, size = PUBLISHED[name]
    strides = STRIDES.get(name, [8, 16, 32])
    network = build_on_meta(name)
    check_form(network, name)

    image = torch.empty(1, 3, size, size, device="meta")
    cost = measure_complexity(network.eval(), image)["total"]
    assert cost.parameters == parameters
    assert cost.fused_parameters == fused
    assert gflops is None or cost.flops / 1e9 == pytest.approx(gflops, abs=1e-4)
    assert sum(count(m) for m in network.modules() if isinstance(m, Implicit)) == implicit

    assert network.strides == strides
    assert network.size_divisibility == strides[-1]
    if name in DEPLOYMENTS:
        published = DEPLOYMENTS[name]
        assert cost.fused_flops / 1e9 == pytest.approx(published.gflops, abs=1e-4)
        if published.keys is not None:
            assert len(network.state_dict()) + THEIR_ANCHORS == published.keys
        if name.endswith("_deploy"):
            assert fused == published.parameters
            return  # the rest is a part of what the trained network has shown
        check_fused(network, image, cost, published)

    height, width = strides[-1], 2 * strides[-1]  # the smallest legal sides
    anchors = network.anchors.shape[1]
    with mock.patch.object(nn.BatchNorm2d, "forward", scale_and_shift):
        levels = network.train()(torch.zeros(2, 3, height, width, device="meta"))
    expected = [(2, anchors, height // s, width // s, 85) for s in strides]
    assert [tuple(x.shape) for x in levels] == expected * (2 if name in AUXILIARY else 1)
    assert network.decode(levels).shape == (2, sum(h * w * a for _, a, h, w, _ in expected), 85)

    sum(x.sum() for x in levels).backward()
    assert [k for k, p in network.named_parameters() if p.grad is None] == []

    if name in AUXILIARY:
        predictions, gflops = AUXILIARY[name]
        assert count(network.head.auxiliary) == predictions
        trained = measure_complexity(network.train(), image)["total"]
        assert trained.flops / 1e9 == pytest.approx(gflops, abs=1e-4)
        if name == "yolov7_d6":  # alone of all, the paper's number counts the auxiliary heads
            assert trained.fused_flops / 1e9 == pytest.approx(806.959, abs=1e-3)


def check_fused(network, image, cost, published):
    """What `fuse_for_inference` makes, against the tables and the forecast."""
    fused = measure_complexity(fuse_for_inference(network), image)["total"]
    assert fused.parameters == fused.fused_parameters == published.parameters
    assert fused.flops == fused.fused_flops == cost.fused_flops
    assert 2 * fused.macs / 1e9 == pytest.approx(published.macs, abs=1e-4)


def scale_and_shift(norm, features):
    """Of a batch norm what its parameters do: all of it takes most of the time without values."""
    return torch.addcmul(norm.bias[:, None, None], features, norm.weight[:, None, None])


def check_form(network, name):
    form = VARIANTS[name].form
    expected = FORM_Y if name in FORM_Y_NAMES else FORM_V7 if name in FORM_V7_NAMES else FORM_D
    assert form == replace(expected, activation=ACTIVATION.get(name, "silu"))
    modules = list(network.modules())
    norms = {(m.eps, m.momentum) for m in modules if isinstance(m, nn.BatchNorm2d)}
    assert norms == {(1e-4 if expected is FORM_D else 1e-3, 0.03)}
    activations = {type(m) for m in modules} & set(ACTIVATIONS.values())
    assert activations == {ACTIVATIONS[form.activation]}


@pytest.mark.heavy
def test_the_form_is_a_choice():
    for name in ("yolor_p6", "yolor_w6", "yolor_csp"):
        assert count(build_on_meta(name, form="Y")) == PUBLISHED[f"{name}_paper"][0]
        assert count(build_on_meta(f"{name}_paper", form="D")) == PUBLISHED[name][0]


def test_other_numbers_of_classes_and_image_channels():
    # 79 classes fewer: in each of 3 anchors, a row of weights, a bias and an implicit number.
    fewer = 3 * 79 * ((256 + 384 + 512 + 640) + 2 * 4)
    assert count(build_on_meta("yolor_p6", num_classes=1)) == PUBLISHED["yolor_p6"][0] - fewer
    # 9 channels more, four times as many after space to depth, reach a 3x3 convolution to 64.
    more = 9 * 4 * 9 * 64
    assert count(build_on_meta("yolor_p6", in_channels=12)) == PUBLISHED["yolor_p6"][0] + more


def test_scaling_rounds_widths_up_and_repetitions_to_the_nearest():
    # The paper's SSS: widths times 0.5, repetitions times 0.33, at least 1.
    assert SMALL_CSP.stages == ((32, 1, "residual"), (64, 1), (128, 3), (256, 3), (512, 1))
    assert (SMALL_CSP.neck_widths, SMALL_CSP.neck_units) == ((64, 128, 256), 1)
    assert SMALL_CSP.stem == (("conv", 16, 3, 1), ("conv", 32, 3, 2))
    # 32 * 0.3 = 9.6 and 64 * 0.3 = 19.2 go up to multiples of 8.
    assert scale(get_variant("yolor_csp"), width=0.3).stem[:2] == (
        ("conv", 16, 3, 1),
        ("conv", 24, 3, 2),
    )
    assert scale(get_variant("yolor_sss_s2d"), width=2).stem == STEM_C  # has no width
    assert scale(get_variant("yolor_p6")) == get_variant("yolor_p6")


def test_a_network_of_ones_own():
    row = customise(
        "yolor_p6",
        form="Y",
        width_factor=0.25,
        stages=[[16, 1], [24, 1], [32, 2]],  # replaces what was scaled
        stem=[["dwt"], ["csp", 16]],
        neck_widths=[16, 24],
        neck_units=1,
        downsample="csp",
        anchors=[[[10, 10]], [[40, 40]]],
    )
    assert isinstance(row, Variant) and row.form == FORM_Y
    network = build_network(row, 2)
    assert network.strides == [8, 16] and network.neck.channels == [32, 48]
    assert [tuple(x.shape) for x in network(torch.zeros(1, 3, 32, 32))] == [
        (1, 1, 4, 4, 7),
        (1, 1, 2, 2, 7),
    ]
    network = build_network(customise(row, form="D", min_stride=4, neck_widths=[8, 16, 24],
                                      anchors=[[[8, 8]]] * 3))  # fmt: skip
    assert network.strides == [4, 8, 16]
    assert customise("yolor_p6").form == FORM_D


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stem": [["pool"]]}, r"MODEL\.YOLOR\.STEM.*'pool'"),
        ({"stem": [["conv", 32, 2, 1]]}, "odd kernel"),
        ({"stem": [["conv", 32, 3]]}, "odd kernel"),
        ({"stages": [[128]]}, r"MODEL\.YOLOR\.STAGES.*\[128\]"),
        ({"stages": [[64, 1, "residual"]]}, "128 channels reach it"),
        ({"downsample": "haar"}, "'haar', expected one of"),
        ({"downsample": "max_pool"}, r"keeps its width, 128 channels, but 256.*DOWNSAMPLE_WIDTH"),
        ({"neck_widths": [64, 64]}, r"4 levels, but the neck 2 widths .*NECK_WIDTHS"),
        ({"min_stride": 512}, r"MIN_STRIDE.*\[4, 8, 16, 32, 64\]"),
    ],
)
def test_layouts_that_make_no_sense_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        build_network(customise("yolor_p6", **fields))


def test_an_unknown_name_is_named_beside_the_known_ones():
    with pytest.raises(ValueError, match=r"'yolor_p7'.*yolor_p6.*yolor_ssss_s2d"):
        get_variant("yolor_p7")
