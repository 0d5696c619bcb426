"""The table of published networks: every model is a row of data, none has code of its own.

Stems, topologies, widths and depths follow the paper's appendix (metrics A2 and A3) and the
authors' released configurations, anchors the latter. Parameter counts with 80 classes are checked
against the paper in tests/networks; docs/models.md lists them.
"""

from __future__ import annotations

from dataclasses import replace

from ..layers import FORM_D, FORM_V7, FORM_Y
from .backbone import SAME
from .neck import JOINS_REDUCED, UPSAMPLED_FIRST
from .variant import Variant, compound_scale, for_deployment, in_form, scale, without_implicit

# ---- Anchors for COCO, from the authors' configurations

# Three levels at 640 px.
ANCHORS_640 = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
# Four levels at 1280 px.
ANCHORS_1280 = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)

# Three levels of YOLOv5 and YOLOv7-tiny at 640 px; their networks with four have `ANCHORS_1280`.
ANCHORS_640_V5 = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)

# ---- Stems, named as in the paper's figure A2

STEM_A = (("conv", 32, 3, 1), ("conv", 64, 3, 2))
STEM_B = (("s2d",), ("conv", 64, 3, 1))
STEM_C = (("s2d",),) * 2
STEM_C_DWT = (("dwt",),) * 2
STEM_D = (("s2d",), ("conv", 64, 3, 1), ("conv", 128, 3, 2))
STEM_E = (("s2d",), ("conv", 64, 3, 1), ("csp", 128))  # at width 1; used at 1.25
STEM_F = (("s2d",),) * 3
STEM_F_DWT = (("dwt",),) * 3

# ---- Topology 1: YOLOv4-CSP, whose stage B1 is a residual unit at stride 2

YOLOR_CSP = Variant(
    form=FORM_D,
    stem=STEM_A,
    stages=((64, 1, "residual"), (128, 2), (256, 8), (512, 8), (1024, 4)),
    transition=True,
    neck_widths=(128, 256, 512),
    neck_units=2,
    anchors=ANCHORS_640,
)
YOLOR_CSP_X = replace(
    YOLOR_CSP,
    stem=(("conv", 32, 3, 1), ("conv", 80, 3, 2)),
    stages=((80, 1, "residual"), (160, 3), (320, 10), (640, 10), (1280, 5)),
    neck_widths=(160, 320, 640),
    neck_units=3,
    spp=("csp", 1),
)
YOLOR_CSP_FAST = replace(YOLOR_CSP, stem=STEM_B)

# ---- Topologies 2 (no stage B1) and 4 (neither B1 nor B2): YOLOv4-CSP at half the width and a
# third of the depth

SMALL_CSP = scale(replace(YOLOR_CSP, form=FORM_Y), width=0.5, depth=0.33)
YOLOR_SSS = replace(SMALL_CSP, stages=SMALL_CSP.stages[1:], stem=STEM_C)
YOLOR_SSSS = replace(SMALL_CSP, stages=SMALL_CSP.stages[2:], stem=STEM_F)

# ---- Topology 3 (no stage B1, four levels, CSP fusion first): the P6 family

YOLOR_P6 = Variant(
    form=FORM_D,
    stem=STEM_D,
    stages=((128, 3), (256, 7), (384, 7), (512, 3), (640, 3)),
    transition=False,
    neck_widths=(128, 192, 256, 320),
    neck_units=3,
    anchors=ANCHORS_1280,
)
YOLOR_W6 = replace(
    YOLOR_P6,
    stages=((128, 3), (256, 7), (512, 7), (768, 3), (1024, 3)),
    neck_widths=(128, 256, 384, 512),
)
YOLOR_E6 = scale(replace(YOLOR_W6, form=FORM_Y, stem=STEM_E, downsample="csp"), width=1.25)
YOLOR_D6 = replace(YOLOR_E6, stages=((160, 3), (320, 15), (640, 15), (960, 7), (1280, 7)))

# ---- Scaled-YOLOv4 (arXiv 2011.08036, section 4.3), the paper's large baselines: no implicit
# knowledge, four anchors a level

SCALED_YOLOV4_P5 = without_implicit(
    Variant(
        form=replace(FORM_Y, activation="mish"),
        stem=STEM_A,
        stages=((64, 1), (128, 3), (256, 15), (512, 15), (1024, 7)),
        transition=True,
        neck_widths=(128, 256, 512),
        neck_units=3,
        anchors=(
            ((13, 17), (31, 25), (24, 51), (61, 45)),
            ((48, 102), (119, 96), (97, 189), (217, 184)),
            ((171, 384), (324, 451), (616, 618), (800, 800)),
        ),
    )
)
SCALED_YOLOV4_P6 = replace(
    SCALED_YOLOV4_P5,
    stages=(*SCALED_YOLOV4_P5.stages, (1024, 7)),
    neck_widths=(128, 256, 512, 512),
    anchors=(
        ((13, 17), (31, 25), (24, 51), (61, 45)),
        ((61, 45), (48, 102), (119, 96), (97, 189)),
        ((97, 189), (217, 184), (171, 384), (324, 451)),
        ((324, 451), (545, 357), (616, 618), (1024, 1024)),
    ),
)
SCALED_YOLOV4_P7 = replace(
    scale(
        replace(
            SCALED_YOLOV4_P6,
            stages=(*SCALED_YOLOV4_P6.stages, (1024, 7)),
            neck_widths=(128, 256, 512, 512, 512),
        ),
        width=1.25,
    ),
    anchors=(
        ((13, 17), (22, 25), (27, 66), (55, 41)),
        ((57, 88), (112, 69), (69, 177), (136, 138)),
        ((136, 138), (287, 114), (134, 275), (268, 248)),
        ((268, 232), (504, 445), (416, 640), (640, 640)),
        ((812, 393), (477, 808), (1070, 908), (1408, 1408)),
    ),
)


# ---- YOLOv7 (arXiv 2207.02696), which ends in YOLOR's implicit knowledge

YOLOV7 = Variant(
    form=FORM_V7,
    stem=(("conv", 32, 3, 1), ("conv", 64, 3, 2), ("conv", 64, 3, 1), ("conv", 128, 3, 2)),
    stages=(
        (256, 4, "elan", 64),
        (512, 4, "elan", 128),
        (1024, 4, "elan", 256),
        (1024, 4, "elan", 256),
    ),
    transition=False,
    downsample="mp",
    downsample_width=SAME,
    spp=("sppcspc",),
    neck_block="elan_h",
    neck_units=4,
    neck_widths=(128, 256, 512),
    neck_hidden=(128, 256, 512),
    neck_output="repconv",
    anchors=ANCHORS_640,
)
# The rule scales all but the neck, which has the backbone's block, and the outputs.
YOLOV7_X = replace(compound_scale(YOLOV7, 1.5), neck_block="elan", neck_output="conv")
YOLOV7_TINY = Variant(
    form=replace(FORM_V7, activation="leaky_relu"),
    stem=(("conv", 32, 3, 2), ("conv", 64, 3, 2)),
    stages=((64, 2, "elan_t"), (128, 2, "elan_t"), (256, 2, "elan_t"), (512, 2, "elan_t")),
    transition=False,
    downsample="max_pool",
    downsample_width=SAME,
    spp=("spp_t",),
    neck_block="elan_t",
    neck_units=2,
    neck_widths=(64, 128, 256),
    neck_downsample="conv",
    anchors=ANCHORS_640_V5,
)
YOLOV7_W6 = Variant(
    form=FORM_V7,
    stem=STEM_D,
    stages=(
        (128, 4, "elan", 64),
        (256, 4, "elan", 128),
        (512, 4, "elan", 256),
        (768, 4, "elan", 384),
        (1024, 4, "elan", 512),
    ),
    transition=False,
    spp=("sppcspc",),
    neck_block="elan_h",
    neck_units=4,
    neck_widths=(128, 256, 384, 512),
    neck_hidden=(128, 256, 384, 512),
    auxiliary_widths=(320, 640, 960, 1280),
    anchors=ANCHORS_1280,
)
# W6 has the auxiliary widths of E6, and the rule knows no other down-sampling.
YOLOV7_E6 = replace(
    compound_scale(replace(YOLOV7_W6, stem=STEM_E, downsample="csp"), 1.5),
    auxiliary_widths=YOLOV7_W6.auxiliary_widths,
)
YOLOV7_D6 = replace(
    compound_scale(replace(YOLOV7_W6, stem=STEM_E, downsample="csp"), 2),
    auxiliary_widths=(384, 768, 1152, 1536),
)
YOLOV7_E6E = replace(
    YOLOV7_E6,
    stages=tuple(
        (width, units, f"e_{kind}", *rest) for width, units, kind, *rest in YOLOV7_E6.stages
    ),
    neck_block="e_elan_h",
)

# ---- YOLOv5 release 5, with which the YOLOR paper compares (tables A1 and A2)

YOLOV5_L = without_implicit(
    Variant(
        form=FORM_V7,
        stem=(("focus", 64), ("conv", 128, 3, 2)),
        stages=((128, 3, "c3"), (256, 9, "c3"), (512, 9, "c3"), (1024, 3, "spp_c3", 5, 9, 13)),
        transition=False,
        spp=("none",),
        neck_block="c3_plain",
        neck_units=3,
        neck_widths=(256, 512, 1024),
        neck_downsample_width=SAME,
        neck_lateral="none",
        neck_order=UPSAMPLED_FIRST,
        neck_joins=JOINS_REDUCED,
        neck_output="none",
        anchors=ANCHORS_640_V5,
    )
)
YOLOV5_L6 = replace(
    YOLOV5_L,
    stages=(*YOLOV5_L.stages[:3], (768, 3, "c3"), (1024, 3, "spp_c3", 3, 5, 7)),
    neck_widths=(256, 512, 768, 1024),
    anchors=ANCHORS_1280,
)
YOLOV5_S = scale(YOLOV5_L, width=0.5, depth=0.33)


# `_paper` is the form of the authors' `paper` branch where the paper's count is that of the other.
# Names with yolov4 have no implicit knowledge. Activations are those of the released
# configurations, or of the paper's text where nothing was released (CSP-fast, P6-light).
VARIANTS: dict[str, Variant] = {
    "yolov4_csp": without_implicit(YOLOR_CSP),
    "yolov4_csp_paper": in_form(without_implicit(YOLOR_CSP), FORM_Y, "mish"),
    "yolov4_csp_x": without_implicit(YOLOR_CSP_X),
    "yolov4_csp_fast": in_form(without_implicit(YOLOR_CSP_FAST), FORM_D, "mish"),
    "yolov4_csp_sss_s2d": without_implicit(YOLOR_SSS),
    "yolov4_csp_sss_dwt": without_implicit(replace(YOLOR_SSS, stem=STEM_C_DWT)),
    "yolov4_csp_ssss_s2d": without_implicit(YOLOR_SSSS),
    "yolov4_csp_ssss_dwt": without_implicit(replace(YOLOR_SSSS, stem=STEM_F_DWT)),
    "yolov4_p6_light": in_form(without_implicit(YOLOR_P6), FORM_D, "mish"),
    "yolor_csp": YOLOR_CSP,
    "yolor_csp_paper": in_form(YOLOR_CSP, FORM_Y),
    "yolor_csp_x": YOLOR_CSP_X,
    "yolor_csp_fast": in_form(YOLOR_CSP_FAST, FORM_D, "mish"),
    "yolor_sss_s2d": YOLOR_SSS,
    "yolor_sss_dwt": replace(YOLOR_SSS, stem=STEM_C_DWT),
    "yolor_ssss_s2d": YOLOR_SSSS,
    "yolor_ssss_dwt": replace(YOLOR_SSSS, stem=STEM_F_DWT),
    "yolor_p6": YOLOR_P6,
    "yolor_p6_paper": in_form(YOLOR_P6, FORM_Y),
    "yolor_w6": YOLOR_W6,
    "yolor_w6_paper": in_form(YOLOR_W6, FORM_Y),
    "yolor_e6": YOLOR_E6,
    "yolor_d6": YOLOR_D6,
    "scaled_yolov4_p5": SCALED_YOLOV4_P5,
    "scaled_yolov4_p6": SCALED_YOLOV4_P6,
    "scaled_yolov4_p7": SCALED_YOLOV4_P7,
    "yolov7_tiny": YOLOV7_TINY,
    "yolov7": YOLOV7,
    "yolov7_x": YOLOV7_X,
    "yolov7_w6": YOLOV7_W6,
    "yolov7_e6": YOLOV7_E6,
    "yolov7_d6": YOLOV7_D6,
    "yolov7_e6e": YOLOV7_E6E,
    "yolov7_tiny_deploy": for_deployment(YOLOV7_TINY),
    "yolov7_deploy": for_deployment(YOLOV7),
    "yolov7_x_deploy": for_deployment(YOLOV7_X),
    "yolov7_w6_deploy": for_deployment(YOLOV7_W6),
    "yolov7_e6_deploy": for_deployment(YOLOV7_E6),
    "yolov7_d6_deploy": for_deployment(YOLOV7_D6),
    "yolov7_e6e_deploy": for_deployment(YOLOV7_E6E),
    "yolov5_s": YOLOV5_S,
    "yolov5_m": scale(YOLOV5_L, width=0.75, depth=0.67),
    "yolov5_l": YOLOV5_L,
    "yolov5_x": scale(YOLOV5_L, width=1.25, depth=1.33),
    "yolov5_s6": scale(YOLOV5_L6, width=0.5, depth=0.33),
    "yolov5_m6": scale(YOLOV5_L6, width=0.75, depth=0.67),
    "yolov5_l6": YOLOV5_L6,
    "yolov5_x6": scale(YOLOV5_L6, width=1.25, depth=1.33),
    "yolov5_s_implicit": replace(YOLOV5_S, feature_alignment="add", prediction_refinement="mul"),
}


def get_variant(name: str) -> Variant:
    """Look a network up by name.

    Raises:
        ValueError: when there is no such network; the message lists those that exist.
    """
    if name not in VARIANTS:
        raise ValueError(f"unknown network {name!r}, expected one of {sorted(VARIANTS)}")
    return VARIANTS[name]
