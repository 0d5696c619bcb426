"""The published networks: parameters, FLOPs, shapes, forms; on the meta device, without values."""

import pytest
import torch
from torch import nn

from yolor_d2.layers import FORM_D, FORM_Y
from yolor_d2.layers.conv import ACTIVATIONS
from yolor_d2.networks import VARIANTS, Variant, build_network, get_variant
from yolor_d2.networks.complexity import measure_complexity
from yolor_d2.networks.network import customise
from yolor_d2.networks.variants import SMALL_CSP, STEM_C, scale

# What the paper's tables and the authors' configurations have with 80 classes: parameters, the same
# with norms fused, implicit parameters, and 10^9 FLOPs, counted the paper's way, at a size. The
# paper's tables 7, A1 and A2 have the parameters of CSP-fast and the P6 family, and the fused ones
# of SSS, SSSS and Scaled-YOLOv4-P6.
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
MISH = [
    *("yolov4_csp_paper", "yolov4_csp_fast", "yolor_csp_fast", "yolov4_p6_light"),
    *(name for name in VARIANTS if "scaled" in name),
]


def build_on_meta(name, **options):
    with torch.device("meta"):
        return build_network(name, **options)


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_every_network_is_checked_here():
    assert set(VARIANTS) == set(PUBLISHED)


@pytest.mark.parametrize("name", VARIANTS)
def test_published_network(name):
    """Parameters, FLOPs, strides, shapes, gradients: one look at each model."""
    parameters, fused, implicit, gflops, size = PUBLISHED[name]
    strides = STRIDES.get(name, [8, 16, 32])
    network = build_on_meta(name)

    cost = measure_complexity(network.eval(), torch.empty(1, 3, size, size, device="meta"))
    assert cost["total"].parameters == parameters
    assert cost["total"].fused_parameters == fused
    assert cost["total"].flops / 1e9 == pytest.approx(gflops, abs=1e-4)

    assert network.strides == strides
    height, width = strides[-1], 2 * strides[-1]  # the smallest legal sides
    anchors = network.anchors.shape[1]
    levels = network.train()(torch.zeros(2, 3, height, width, device="meta"))
    expected = [(2, anchors, height // s, width // s, 85) for s in strides]
    assert [tuple(x.shape) for x in levels] == expected
    assert network.decode(levels).shape == (2, sum(h * w * a for _, a, h, w, _ in expected), 85)

    sum(x.sum() for x in levels).backward()
    assert [k for k, p in network.named_parameters() if p.grad is None] == []

    plain = build_on_meta(name, feature_alignment="none", prediction_refinement="none")
    assert count(plain) == parameters - implicit


@pytest.mark.parametrize("name", VARIANTS)
def test_norms_and_activations_are_those_of_the_form(name):
    modules = list(build_on_meta(name).modules())
    norms = {(m.eps, m.momentum) for m in modules if isinstance(m, nn.BatchNorm2d)}
    assert norms == {((1e-3 if name in FORM_Y_NAMES else 1e-4), 0.03)}
    activations = {type(m) for m in modules if isinstance(m, (nn.SiLU, nn.Mish))}
    assert activations == {ACTIVATIONS["mish" if name in MISH else "silu"]}


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
        ({"downsample": "pool"}, "'pool', expected one of"),
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
